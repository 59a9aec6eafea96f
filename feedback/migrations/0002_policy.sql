-- The policy that answered, where a server has several: versions and adapters have names of their own.
ALTER TABLE completions ADD COLUMN policy TEXT;
