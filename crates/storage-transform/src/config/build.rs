//! From a configuration to the transformer of each resource.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use super::error::{BuildError, ConfigError};
use super::selection::{GroupResource, Rules};
use super::types::{EncryptionConfiguration, KeysConfiguration, KmsConfiguration, ProviderConfiguration};
use crate::hash;
use crate::identity::Identity;
use crate::prefix::{Provider, ProviderList};
use crate::random::{RandomSource, SystemRandom};
use crate::transformer::Transformer;
use crate::usage::{KeyUsage, WriteCounter};

/// How a configuration is to be read and built.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ConfigOptions {
    /// The file will be read again while running. Names of key services must be unique then. Default: no.
    pub reload: bool,
    /// Whether version 1 of the key service protocol is allowed. Default: no.
    pub kms_v1: bool,
    /// Where nonces come from. Default: the operating system.
    pub random: Arc<dyn RandomSource>,
}

impl Default for ConfigOptions {
    fn default() -> Self {
        Self {
            reload: false,
            kms_v1: false,
            random: Arc::new(SystemRandom),
        }
    }
}

impl ConfigOptions {
    /// Sets [`reload`](Self::reload).
    #[must_use]
    pub fn with_reload(mut self, reload: bool) -> Self {
        self.reload = reload;
        self
    }

    /// Sets [`kms_v1`](Self::kms_v1).
    #[must_use]
    pub fn with_kms_v1(mut self, allowed: bool) -> Self {
        self.kms_v1 = allowed;
        self
    }

    /// Sets [`random`](Self::random). A source that repeats itself destroys the encryption: this is for tests.
    #[must_use]
    pub fn with_random(mut self, random: Arc<dyn RandomSource>) -> Self {
        self.random = random;
        self
    }
}

/// The transformers of all resources, as one configuration says.
///
/// Immutable: another configuration is another value. Whoever reloads keeps it behind an atomic pointer and asks
/// [`for_resource`](Self::for_resource) on every call.
pub struct Transformers {
    rules: Rules<Arc<dyn Transformer>>,
    fallback: Arc<dyn Transformer>,
    keys: Vec<CountedKey>,
    content_hash: Option<String>,
    close_grace_period: Duration,
}

struct CountedKey {
    provider: &'static str,
    name: String,
    counter: Arc<WriteCounter>,
}

impl Transformers {
    /// Nothing is encrypted, and encrypted values are refused: what a server without a configuration uses.
    pub fn identity() -> Self {
        Self {
            rules: Rules::new(),
            fallback: Arc::new(Identity),
            keys: Vec::new(),
            content_hash: None,
            close_grace_period: Duration::ZERO,
        }
    }

    /// Reads, validates and builds the configuration in a file. The file is read with blocking calls.
    ///
    /// # Errors
    ///
    /// See [`ConfigError`]; nothing of a faulty configuration is put into effect.
    pub fn load(path: &Path, options: &ConfigOptions) -> Result<Self, ConfigError> {
        let text = std::fs::read(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(path, &Zeroizing::new(text), options)
    }

    /// The same for the text of a file. `path` is for error messages only.
    ///
    /// # Errors
    ///
    /// See [`ConfigError`].
    pub fn parse(path: &Path, text: &[u8], options: &ConfigOptions) -> Result<Self, ConfigError> {
        let config = EncryptionConfiguration::parse(path, text)?;
        let built = Self::new(&config, options)?;
        Ok(Self {
            content_hash: Some(hash::content_hash(text)),
            ..built
        })
    }

    /// Validates a configuration and builds its transformers.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Invalid`] with every rule that is broken, or [`ConfigError::Build`].
    pub fn new(config: &EncryptionConfiguration, options: &ConfigOptions) -> Result<Self, ConfigError> {
        config.validate(options.reload).map_err(ConfigError::Invalid)?;
        let order = order_rules(config, options)?;
        let mut builder = Builder {
            options,
            secrets: Vec::new(),
            keys: Vec::new(),
        };
        let entries: Vec<Vec<Arc<dyn Provider>>> = config
            .resources
            .iter()
            .enumerate()
            .map(|(index, entry)| builder.providers(&format!("resources[{index}].providers"), &entry.providers))
            .collect::<Result<_, _>>()?;
        let rules = order.try_map(|rule, indexes| {
            let providers = indexes
                .into_iter()
                .flat_map(|index| entries[index].iter().map(Arc::clone))
                .collect();
            let list = ProviderList::new(providers);
            let list = list.ok_or_else(|| BuildError::NoProvider {
                resource: rule.to_string(),
            })?;
            Ok::<_, BuildError>(Arc::new(list) as Arc<dyn Transformer>)
        })?;
        let close_grace_period = config.close_grace_period();
        Ok(Self {
            rules,
            keys: builder.keys,
            close_grace_period,
            ..Self::identity()
        })
    }

    /// The transformer of a resource: that of its most specific rule, or bare [`Identity`] when there is none.
    ///
    /// `group` is empty for the core group. Kinds that come into being later are found by their name in the same way.
    pub fn for_resource(&self, group: &str, resource: &str) -> Arc<dyn Transformer> {
        Arc::clone(self.rules.find(group, resource).unwrap_or(&self.fallback))
    }

    /// How often each static key was used for writing, in the order of the configuration.
    pub fn key_usage(&self) -> Vec<KeyUsage> {
        let usage = |key: &CountedKey| KeyUsage {
            provider: key.provider.to_owned(),
            key_name: key.name.clone(),
            writes: key.counter.writes(),
        };
        self.keys.iter().map(usage).collect()
    }

    /// `sha256:` and the hash of the file's bytes, to see cheaply whether it has changed. `None` when the
    /// configuration did not come from text.
    pub fn content_hash(&self) -> Option<&str> {
        self.content_hash.as_deref()
    }

    /// How long to keep a replaced configuration alive for calls that are under way.
    pub fn close_grace_period(&self) -> Duration {
        self.close_grace_period
    }
}

impl fmt::Debug for Transformers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transformers")
            .field("rules", &self.rules)
            .field("content_hash", &self.content_hash)
            .finish_non_exhaustive()
    }
}

/// Which entries each rule is made of, after the checks that need no key: allowed versions and masked rules, in the
/// order of the file.
fn order_rules(config: &EncryptionConfiguration, options: &ConfigOptions) -> Result<Rules<Vec<usize>>, BuildError> {
    let mut rules: Rules<Vec<usize>> = Rules::new();
    for (index, entry) in config.resources.iter().enumerate() {
        let is_v1 = |provider: &ProviderConfiguration| {
            provider
                .kms
                .as_ref()
                .is_some_and(|kms| kms.api_version == KmsConfiguration::V1)
        };
        if !options.kms_v1 && entry.providers.iter().any(is_v1) {
            return Err(BuildError::KmsV1Disabled);
        }
        for name in &entry.resources {
            rules.entry(GroupResource::parse(name))?.push(index);
        }
    }
    Ok(rules)
}

#[cfg_attr(
    not(feature = "aesgcm"),
    allow(dead_code, reason = "only providers with static keys use what it holds")
)]
struct Builder<'c> {
    options: &'c ConfigOptions,
    /// The secrets met so far, so that one that stands there twice is counted once. Wiped with the builder.
    secrets: Vec<(Zeroizing<Vec<u8>>, Arc<WriteCounter>)>,
    keys: Vec<CountedKey>,
}

impl Builder<'_> {
    /// The providers of one entry, built once and shared by all its resources.
    fn providers(
        &mut self,
        field: &str,
        providers: &[ProviderConfiguration],
    ) -> Result<Vec<Arc<dyn Provider>>, BuildError> {
        let build = |(index, provider)| self.provider(&format!("{field}[{index}]"), provider);
        providers.iter().enumerate().map(build).collect()
    }

    fn provider(&mut self, field: &str, provider: &ProviderConfiguration) -> Result<Arc<dyn Provider>, BuildError> {
        let unsupported = |provider| {
            Err(BuildError::Unsupported {
                field: format!("{field}.{provider}"),
                provider,
            })
        };
        if let Some(keys) = &provider.aesgcm {
            self.aesgcm(&format!("{field}.aesgcm"), keys)
        } else if provider.aescbc.is_some() {
            unsupported("aescbc")
        } else if provider.secretbox.is_some() {
            unsupported("secretbox")
        } else if provider.kms.is_some() {
            unsupported("kms")
        } else {
            Ok(Arc::new(Identity))
        }
    }

    #[cfg(feature = "aesgcm")]
    fn aesgcm(&mut self, field: &str, config: &KeysConfiguration) -> Result<Arc<dyn Provider>, BuildError> {
        let unusable = |key_name: &str| BuildError::UnusableKey {
            field: field.to_owned(),
            key_name: key_name.to_owned(),
        };
        let mut keys = Vec::with_capacity(config.keys.len());
        for key in &config.keys {
            let secret = key.secret.decode().ok_or_else(|| unusable(&key.name))?;
            let counter = self.counter(&secret);
            self.keys.push(CountedKey {
                provider: "aesgcm",
                name: key.name.clone(),
                counter: Arc::clone(&counter),
            });
            keys.push((key.name.as_str(), secret, counter));
        }
        let keys = keys
            .iter()
            .map(|(name, secret, counter)| (*name, secret.as_slice(), Arc::clone(counter)));
        let provider = crate::aesgcm::AesGcm::new(keys, &self.options.random).map_err(|name| unusable(&name))?;
        Ok(Arc::new(provider))
    }

    #[cfg(not(feature = "aesgcm"))]
    fn aesgcm(&mut self, field: &str, _config: &KeysConfiguration) -> Result<Arc<dyn Provider>, BuildError> {
        Err(BuildError::Unsupported {
            field: field.to_owned(),
            provider: "aesgcm",
        })
    }

    #[cfg(feature = "aesgcm")]
    fn counter(&mut self, secret: &Zeroizing<Vec<u8>>) -> Arc<WriteCounter> {
        if let Some((_, counter)) = self.secrets.iter().find(|(known, _)| known == secret) {
            return Arc::clone(counter);
        }
        let counter = WriteCounter::new();
        self.secrets.push((secret.clone(), Arc::clone(&counter)));
        counter
    }
}
