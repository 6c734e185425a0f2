"""The tasks that come with the workbench. Each is one file that declares, and a folder under data/ that holds its rows."""
