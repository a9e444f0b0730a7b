//! Who is asking: bearer tokens from a file in Kubernetes' CSV form.
//!
//! Upstream: kubernetes/apiserver pkg/authentication/token/tokenfile.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use http::{HeaderMap, header};

use apiserver_registry::UserInfo;

/// The tokens of a file.
#[derive(Default)]
pub(crate) struct Tokens(HashMap<String, UserInfo>);

impl fmt::Debug for Tokens {
    /// Tokens stay out of logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokens({} known)", self.0.len())
    }
}

/// What the credentials of a request say.
#[derive(Debug)]
pub(crate) enum Identity {
    /// A known token.
    Known(UserInfo),
    /// No credentials.
    None,
    /// Credentials that nobody knows.
    Invalid,
}

impl Tokens {
    /// Reads `token,user,uid[,"group1,group2"]` lines (`apiserver-http/AUTN-13`).
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        Self::parse(&text).map_err(|error| format!("{}: {error}", path.display()))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut tokens = HashMap::new();
        for (number, line) in text.lines().enumerate() {
            if line.trim().is_empty() {
                continue;
            }
            let columns = columns(line);
            let [token, name, uid, rest @ ..] = columns.as_slice() else {
                return Err(format!(
                    "line {}: token file must have at least 3 columns (token, user name, user uid), found {}",
                    number + 1,
                    columns.len()
                ));
            };
            if token.is_empty() {
                tracing::warn!(line = number + 1, "empty token in the token file, line skipped");
                continue;
            }
            let mut user = UserInfo::named(name.clone());
            user.uid.clone_from(uid);
            user.groups = rest
                .first()
                .map_or_else(Vec::new, |groups| groups.split(',').map(str::to_owned).collect());
            if tokens.insert(token.clone(), user).is_some() {
                tracing::warn!(
                    line = number + 1,
                    "duplicate token in the token file, the last one wins"
                );
            }
        }
        Ok(Self(tokens))
    }

    /// Reads the Authorization header (`apiserver-http/AUTN-11`).
    pub(crate) fn identify(&self, headers: &HeaderMap) -> Identity {
        let header = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let mut words = header.trim().split(' ');
        match (words.next(), words.next()) {
            (Some(scheme), Some(token)) if scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() => {
                // A look-up by hash does not compare the secret byte by byte, so its time tells nothing of use.
                match self.0.get(token) {
                    Some(user) => {
                        let mut user = user.clone();
                        if !user.groups.iter().any(|group| group == "system:authenticated") {
                            user.groups.push("system:authenticated".into());
                        }
                        Identity::Known(user)
                    }
                    None => Identity::Invalid,
                }
            }
            _ => Identity::None,
        }
    }
}

/// The columns of a CSV line; a quoted column may hold commas and doubled quotes.
fn columns(line: &str) -> Vec<String> {
    let (mut columns, mut column, mut quoted) = (Vec::new(), String::new(), false);
    let mut chars = line.trim_end_matches('\r').chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                column.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => columns.push(std::mem::take(&mut column)),
            ' ' if column.is_empty() && !quoted => {}
            other => column.push(other),
        }
    }
    columns.push(column);
    columns
}

#[cfg(test)]
mod tests {
    use super::*;

    // covers: apiserver-http/AUTN-11, apiserver-http/AUTN-13
    #[test]
    fn tokens_come_from_a_csv_file() {
        let tokens = Tokens::parse("t1,ann,1,\"a,b\"\n\n,nobody,2\nt2,bob,2\n").unwrap();
        let identify = |header: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, header.parse().unwrap());
            match tokens.identify(&headers) {
                Identity::Known(user) => format!("{} {}", user.name, user.groups.join("+")),
                Identity::None => "none".into(),
                Identity::Invalid => "invalid".into(),
            }
        };
        assert_eq!(identify("Bearer t1"), "ann a+b+system:authenticated");
        assert_eq!(identify("bearer t2 more"), "bob system:authenticated");
        assert_eq!(identify("Bearer  t2"), "none");
        assert_eq!(identify("Bearer"), "none");
        assert_eq!(identify("Basic x"), "none");
        assert_eq!(identify("Bearer x"), "invalid");
        assert!(Tokens::parse("a,b\n").is_err());
    }
}
