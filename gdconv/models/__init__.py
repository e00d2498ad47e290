"""Model families: what each must deliver (`base`), one folder a family."""
