"""Full-parameter gradient descent on the digits: the main job."""
