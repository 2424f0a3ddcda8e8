"""The SCIM server's side: the directory as one sender sees and changes it. Entry point: `store.DirectoryStore`."""
