"""Weight files of other programs, looked through before anything of them is read."""
