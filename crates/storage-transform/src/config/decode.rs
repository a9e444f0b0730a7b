//! From a document to the configuration: kind and version, strict fields, defaults.

use std::collections::BTreeSet;

use super::document::{self, Node};
use super::duration::GoDuration;
use super::types::{
    EncryptionConfiguration, Key, KeysConfiguration, KmsConfiguration, ProviderConfiguration, ResourceConfiguration,
    Secret,
};

const GROUP_VERSION: &str = "apiserver.config.k8s.io/v1";
const KIND: &str = "EncryptionConfiguration";
/// An early documentation error that servers have accepted ever since.
const LEGACY: (&str, &str) = ("v1", "EncryptionConfig");
/// Other configuration files of the same group and version.
const OTHER_KINDS: [&str; 4] = [
    "AdmissionConfiguration",
    "AuthenticationConfiguration",
    "AuthorizationConfiguration",
    "TracingConfiguration",
];

/// Decodes a whole file. The error is the reason in words; it quotes field names, never values.
pub(super) fn decode(text: &[u8]) -> Result<EncryptionConfiguration, String> {
    let document = document::parse(text)?;
    let Node::Object(fields) = &document else {
        return Err(format!(
            "Object 'Kind' is missing: the document is {}",
            document.describe()
        ));
    };
    check_kind(fields)?;
    let mut decoder = Decoder { strict: Vec::new() };
    let config = decoder.configuration(&document)?;
    if !decoder.strict.is_empty() {
        return Err(format!("strict decoding error: {}", decoder.strict.join(", ")));
    }
    Ok(config)
}

fn check_kind(fields: &[(String, Node)]) -> Result<(), String> {
    let text = |name: &str| match fields.iter().rev().find(|(field, _)| field == name) {
        None | Some((_, Node::Null)) => Ok(""),
        Some((_, Node::Text(text))) => Ok(text.as_str()),
        Some((_, other)) => Err(format!("{name}: expected a string, found {}", other.describe())),
    };
    let (kind, version) = (text("kind")?, text("apiVersion")?);
    if kind.is_empty() {
        return Err("Object 'Kind' is missing".to_owned());
    }
    if version.is_empty() {
        return Err("Object 'apiVersion' is missing".to_owned());
    }
    match (version, kind) {
        (GROUP_VERSION, KIND) | LEGACY => Ok(()),
        (GROUP_VERSION, other) if OTHER_KINDS.contains(&other) => {
            Err(format!("got unexpected config type: {version}, Kind={other}"))
        }
        _ => Err(format!("no kind {kind:?} is registered for version {version:?}")),
    }
}

/// Where a value stands: the path of its parent and its own step.
#[derive(Clone, Copy)]
enum Path<'a> {
    Root,
    Field(&'a Path<'a>, &'a str),
    Index(&'a Path<'a>, usize),
}

impl std::fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Field(Self::Root, name) => f.write_str(name),
            Self::Field(parent, name) => write!(f, "{parent}.{name}"),
            Self::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// Decodes values, and collects what only strict decoding objects to.
struct Decoder {
    strict: Vec<String>,
}

type Decoded<T> = Result<T, String>;

fn mismatch<T>(path: &Path<'_>, expected: &str, found: &Node) -> Decoded<T> {
    Err(format!("{path}: expected {expected}, found {}", found.describe()))
}

impl Decoder {
    fn configuration(&mut self, node: &Node) -> Decoded<EncryptionConfiguration> {
        let mut config = EncryptionConfiguration::default();
        self.object(node, &Path::Root, |decoder, name, value, path| {
            match name {
                "kind" | "apiVersion" => {}
                "resources" => config.resources = decoder.list(value, path, Self::entry)?,
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(config)
    }

    fn entry(&mut self, node: &Node, path: &Path<'_>) -> Decoded<ResourceConfiguration> {
        let mut entry = ResourceConfiguration::default();
        self.object(node, path, |decoder, name, value, path| {
            match name {
                "resources" => entry.resources = decoder.list(value, path, |_, node, path| text(node, path))?,
                "providers" => entry.providers = decoder.list(value, path, Self::provider)?,
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(entry)
    }

    fn provider(&mut self, node: &Node, path: &Path<'_>) -> Decoded<ProviderConfiguration> {
        let mut provider = ProviderConfiguration::default();
        self.object(node, path, |decoder, name, value, path| {
            // A field with a null value counts as absent, also `identity`.
            match name {
                "aesgcm" => provider.aesgcm = decoder.optional(value, path, Self::keys)?,
                "aescbc" => provider.aescbc = decoder.optional(value, path, Self::keys)?,
                "secretbox" => provider.secretbox = decoder.optional(value, path, Self::keys)?,
                "kms" => provider.kms = decoder.optional(value, path, Self::kms)?,
                "identity" => {
                    let empty = |decoder: &mut Self, node: &Node, path: &Path<'_>| {
                        decoder.object(node, path, |_, _, _, _| Ok(false))
                    };
                    provider.identity = decoder.optional(value, path, empty)?.is_some();
                }
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(provider)
    }

    fn keys(&mut self, node: &Node, path: &Path<'_>) -> Decoded<KeysConfiguration> {
        let mut config = KeysConfiguration::default();
        self.object(node, path, |decoder, name, value, path| {
            match name {
                "keys" => config.keys = decoder.list(value, path, Self::key)?,
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(config)
    }

    fn key(&mut self, node: &Node, path: &Path<'_>) -> Decoded<Key> {
        let mut key = Key::default();
        self.object(node, path, |_, name, value, path| {
            match name {
                "name" => key.name = text(value, path)?,
                "secret" => key.secret = Secret::new(text(value, path)?),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(key)
    }

    fn kms(&mut self, node: &Node, path: &Path<'_>) -> Decoded<KmsConfiguration> {
        let mut kms = KmsConfiguration {
            timeout: KmsConfiguration::DEFAULT_TIMEOUT,
            ..KmsConfiguration::default()
        };
        self.object(node, path, |decoder, name, value, path| {
            match name {
                "apiVersion" => kms.api_version = text(value, path)?,
                "name" => kms.name = text(value, path)?,
                "endpoint" => kms.endpoint = text(value, path)?,
                "cachesize" => kms.cachesize = decoder.optional(value, path, |_, node, path| int32(node, path))?,
                "timeout" => {
                    let timeout = decoder.optional(value, path, |_, node, path| duration(node, path))?;
                    kms.timeout = timeout.unwrap_or(KmsConfiguration::DEFAULT_TIMEOUT);
                }
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        if kms.api_version.is_empty() {
            kms.api_version = KmsConfiguration::V1.to_owned();
        }
        if kms.cachesize.is_none() && kms.api_version == KmsConfiguration::V1 {
            kms.cachesize = Some(KmsConfiguration::DEFAULT_CACHE_SIZE);
        }
        Ok(kms)
    }

    /// Calls `field` for each field of an object; it answers whether it knows the name. Null is the empty object.
    fn object(
        &mut self,
        node: &Node,
        path: &Path<'_>,
        mut field: impl FnMut(&mut Self, &str, &Node, &Path<'_>) -> Decoded<bool>,
    ) -> Decoded<()> {
        let fields = match node {
            Node::Null => return Ok(()),
            Node::Object(fields) => fields,
            other => return mismatch(path, "an object", other),
        };
        let mut seen = BTreeSet::new();
        for (name, value) in fields {
            let path = Path::Field(path, name);
            if !field(self, name, value, &path)? {
                self.strict.push(format!("unknown field \"{path}\""));
            } else if !seen.insert(name) {
                self.strict.push(format!("duplicate field \"{path}\""));
            }
        }
        Ok(())
    }

    /// A list of items; null is the empty list.
    fn list<T>(
        &mut self,
        node: &Node,
        path: &Path<'_>,
        mut item: impl FnMut(&mut Self, &Node, &Path<'_>) -> Decoded<T>,
    ) -> Decoded<Vec<T>> {
        match node {
            Node::Null => Ok(Vec::new()),
            Node::List(items) => items
                .iter()
                .enumerate()
                .map(|(index, node)| item(self, node, &Path::Index(path, index)))
                .collect(),
            other => mismatch(path, "a list", other),
        }
    }

    fn optional<T>(
        &mut self,
        node: &Node,
        path: &Path<'_>,
        value: impl FnOnce(&mut Self, &Node, &Path<'_>) -> Decoded<T>,
    ) -> Decoded<Option<T>> {
        match node {
            Node::Null => Ok(None),
            node => value(self, node, path).map(Some),
        }
    }
}

fn text(node: &Node, path: &Path<'_>) -> Decoded<String> {
    match node {
        Node::Null => Ok(String::new()),
        Node::Text(text) => Ok(text.to_string()),
        other => mismatch(path, "a string", other),
    }
}

fn int32(node: &Node, path: &Path<'_>) -> Decoded<i32> {
    match node {
        Node::Integer(value) => {
            i32::try_from(*value).map_err(|_| format!("{path}: {value} does not fit into a 32-bit integer"))
        }
        other => mismatch(path, "an integer", other),
    }
}

fn duration(node: &Node, path: &Path<'_>) -> Decoded<GoDuration> {
    match node {
        Node::Text(text) => text.parse().map_err(|error| format!("{path}: {error}")),
        other => mismatch(path, "a duration such as \"3s\"", other),
    }
}
