//! Who this is to an etcd cluster that has users: given by the program, or in a file.

use std::fmt;
use std::path::Path;

/// A user of an etcd cluster and its password, which no log and no error shows.
#[derive(Clone, PartialEq, Eq)]
pub struct EtcdCredentials {
    /// The user.
    pub user: String,
    /// The password.
    pub password: String,
}

impl EtcdCredentials {
    /// What the first line of a file says, in the form that etcdctl takes: `user:password`. The user has no colon in it.
    pub(crate) fn read(file: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(file);
        let text = text.map_err(|error| format!("cannot read {}: {error}", file.display()))?;
        let line = text.lines().next().unwrap_or_default();
        // What stands there instead may be a password.
        let parts = line
            .split_once(':')
            .filter(|(user, password)| !user.is_empty() && !password.is_empty());
        let (user, password) = parts.ok_or_else(|| format!("no user:password in {}", file.display()))?;
        Ok(Self {
            user: user.to_owned(),
            password: password.to_owned(),
        })
    }
}

impl fmt::Debug for EtcdCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdCredentials")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_of_a_file_says_who_this_is_and_nothing_else_says_the_password() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("etcd-user");
        for (text, want) in [
            ("api:secret\n", Some(("api", "secret"))),
            ("api:se:cret: \r\nmore", Some(("api", "se:cret: "))),
            ("api:secret", Some(("api", "secret"))),
            ("topsecret\n", None),
            (":topsecret", None),
            ("topsecret:", None),
            ("\napi:topsecret", None),
            ("", None),
        ] {
            std::fs::write(&file, text).expect("written");
            let read = EtcdCredentials::read(&file);
            let shown = format!("{read:?}");
            assert!(!shown.contains("cret"), "{shown}");
            let read = read.ok().map(|read| (read.user, read.password));
            let want = want.map(|(user, password)| (user.to_owned(), password.to_owned()));
            assert_eq!(read, want, "{text:?}");
        }
        let gone = EtcdCredentials::read(&dir.path().join("gone"));
        assert!(gone.is_err_and(|error| error.contains("gone")), "it is named");
    }
}
