//! The rules of a configuration that can be checked before anything is built.

use std::collections::BTreeSet;

use super::endpoint;
use super::error::{FieldError, FieldErrorKind, FieldErrors};
use super::selection::GroupResource;
use super::types::{EncryptionConfiguration, Key, KeysConfiguration, KmsConfiguration, ProviderConfiguration};

const AES_KEY_LENGTHS: &[usize] = &[16, 24, 32];
const SECRETBOX_KEY_LENGTHS: &[usize] = &[32];

/// Resources that exist in the store but not in the API, so that nothing could ever rewrite them.
const NOT_IN_THE_API: [&str; 3] = ["apiserveripinfo", "serviceipallocations", "servicenodeportallocations"];

/// Collects every problem of the configuration, in the order of the file.
pub(super) fn validate(config: &EncryptionConfiguration, reload: bool) -> Result<(), FieldErrors> {
    let mut check = Checker {
        errors: Vec::new(),
        service_names: BTreeSet::new(),
        reload,
    };
    if config.resources.is_empty() {
        check.required("resources", "at least one resources is required");
    }
    for (index, entry) in config.resources.iter().enumerate() {
        let names = format!("resources[{index}].resources");
        let providers = format!("resources[{index}].providers");
        if entry.resources.is_empty() {
            check.required(&names, format!("at least one {names} is required"));
        }
        check.overlap(&names, &entry.resources);
        check.names(&names, &entry.resources);
        if entry.providers.is_empty() {
            check.required(&providers, format!("at least one {providers} is required"));
        }
        for (index, provider) in entry.providers.iter().enumerate() {
            check.provider(&format!("{providers}[{index}]"), provider);
        }
    }
    FieldErrors::check(check.errors)
}

struct Checker<'c> {
    errors: Vec<FieldError>,
    /// The names of the key services met so far, over all entries.
    service_names: BTreeSet<&'c str>,
    reload: bool,
}

impl<'c> Checker<'c> {
    fn required(&mut self, field: &str, detail: impl Into<String>) {
        self.push(FieldErrorKind::Required, field, None, detail.into());
    }

    fn invalid(&mut self, field: &str, value: Option<String>, detail: impl Into<String>) {
        self.push(FieldErrorKind::Invalid, field, value, detail.into());
    }

    fn push(&mut self, kind: FieldErrorKind, field: &str, value: Option<String>, detail: String) {
        self.errors.push(FieldError {
            field: field.to_owned(),
            kind,
            value,
            detail,
        });
    }

    /// Each of the two problems is reported once for the whole list, however many names have it.
    fn overlap(&mut self, field: &str, names: &[String]) {
        let rules: Vec<GroupResource> = names.iter().map(|name| GroupResource::parse(name)).collect();
        let (mut duplicate, mut overlap) = (false, false);
        for (i, one) in rules.iter().enumerate() {
            for (j, other) in rules.iter().enumerate() {
                if i == j {
                    continue;
                }
                // The first equal pair counts as a duplicate only; the same pair met from the other side also counts
                // as an overlap when it is a wildcard.
                if one == other && !duplicate {
                    duplicate = true;
                    continue;
                }
                let same_group = one.group == other.group && (one.any_resource() || other.any_resource());
                overlap |= one.is_any() || same_group;
            }
        }
        let value = || Some(format!("{names:?}"));
        if duplicate {
            self.invalid(field, value(), "the same resource cannot be specified multiple times");
        }
        if overlap {
            let detail = "using overlapping resources such as 'secrets' and '*.' in the same resource list is not \
                          allowed as they will be masked";
            self.invalid(field, value(), detail);
        }
    }

    fn names(&mut self, field: &str, names: &[String]) {
        for (index, name) in names.iter().enumerate() {
            if let Some(detail) = name_problem(name) {
                self.invalid(&format!("{field}[{index}]"), Some(format!("{name:?}")), detail);
            }
        }
    }

    fn provider(&mut self, field: &str, provider: &'c ProviderConfiguration) {
        let ProviderConfiguration {
            aesgcm,
            aescbc,
            secretbox,
            identity,
            kms,
        } = provider;
        let set = [
            aesgcm.is_some(),
            aescbc.is_some(),
            secretbox.is_some(),
            *identity,
            kms.is_some(),
        ];
        match set.into_iter().filter(|set| *set).count() {
            0 => self.invalid(
                field,
                None,
                "provider does not contain any of the expected providers: KMS, AESGCM, AESCBC, Secretbox, Identity",
            ),
            1 => {}
            _ => self.invalid(
                field,
                None,
                "more than one provider specified in a single element, should split into different list elements",
            ),
        }
        // Of several kinds in one element only the first of this order is looked into.
        if let Some(kms) = kms {
            self.kms(&format!("{field}.kms"), kms);
        } else if let Some(config) = aesgcm {
            self.keys(&format!("{field}.aesgcm.keys"), config, AES_KEY_LENGTHS);
        } else if let Some(config) = aescbc {
            self.keys(&format!("{field}.aescbc.keys"), config, AES_KEY_LENGTHS);
        } else if let Some(config) = secretbox {
            self.keys(&format!("{field}.secretbox.keys"), config, SECRETBOX_KEY_LENGTHS);
        }
    }

    fn keys(&mut self, field: &str, config: &KeysConfiguration, lengths: &[usize]) {
        if config.keys.is_empty() {
            self.required(field, "at least one keys is required");
        }
        for (index, key) in config.keys.iter().enumerate() {
            self.key(&format!("{field}[{index}]"), key, lengths);
        }
    }

    fn key(&mut self, field: &str, key: &Key, lengths: &[usize]) {
        if key.name.is_empty() {
            self.required(&format!("{field}.name"), "name is a mandatory field for a key");
        }
        let field = format!("{field}.secret");
        if key.secret.is_empty() {
            return self.required(&field, "secret is a mandatory field for a key");
        }
        let redacted = Some("\"REDACTED\"".to_owned());
        match key.secret.decode() {
            None => self.invalid(&field, redacted, "secrets must be base64 encoded"),
            Some(secret) if !lengths.contains(&secret.len()) => {
                let lengths: Vec<String> = lengths.iter().map(ToString::to_string).collect();
                let detail = format!(
                    "secret is not of the expected length, got {}, expected one of [{}]",
                    secret.len(),
                    lengths.join(" ")
                );
                self.invalid(&field, redacted, detail);
            }
            Some(_) => {}
        }
    }

    fn kms(&mut self, field: &str, kms: &'c KmsConfiguration) {
        self.kms_name(&format!("{field}.name"), kms);
        if kms.timeout.as_nanos() <= 0 {
            let value = Some(format!("\"{}\"", kms.timeout));
            self.invalid(&format!("{field}.timeout"), value, "timeout should be a positive value");
        }
        if let Some(detail) = endpoint_problem(&kms.endpoint) {
            self.invalid(
                &format!("{field}.endpoint"),
                Some(format!("{:?}", kms.endpoint)),
                detail,
            );
        }
        let is_v1 = kms.api_version == KmsConfiguration::V1;
        let cachesize = match kms.cachesize {
            Some(_) if !is_v1 => Some("cachesize is not supported in v2"),
            Some(0) => Some("cachesize should be a positive value, or negative to disable"),
            _ => None,
        };
        if let Some(detail) = cachesize {
            let value = kms.cachesize.map(|size| size.to_string());
            self.invalid(&format!("{field}.cachesize"), value, detail);
        }
        if !is_v1 && kms.api_version != KmsConfiguration::V2 {
            // Kubernetes prints the name of the field here, where the value was meant.
            let detail = "unsupported apiVersion apiVersion for KMS provider, only v1 and v2 are supported";
            self.invalid(
                &format!("{field}.apiVersion"),
                Some(format!("{:?}", kms.api_version)),
                detail,
            );
        }
    }

    fn kms_name(&mut self, field: &str, kms: &'c KmsConfiguration) {
        let name = kms.name.as_str();
        let value = || Some(format!("{name:?}"));
        let is_v1 = kms.api_version == KmsConfiguration::V1;
        if name.is_empty() {
            self.required(field, "name is a mandatory field for a provider");
        }
        // A v1 name may contain one, for the sake of configurations that are older than the rule.
        if !is_v1 && name.contains(':') {
            self.invalid(
                field,
                value(),
                format!("invalid KMS provider name {name}, must not contain ':'"),
            );
        }
        let must_be_unique = self.reload || !is_v1;
        let is_new = self.service_names.insert(name);
        if must_be_unique && !is_new {
            self.invalid(
                field,
                value(),
                format!("duplicate KMS provider name {name}, names must be unique"),
            );
        }
    }
}

/// The first rule that the name of a resource breaks.
fn name_problem(name: &str) -> Option<&'static str> {
    let rule = GroupResource::parse(name);
    if name.to_lowercase() != name {
        Some("resource name should not contain capital letters")
    } else if name == "*" {
        Some("use '*.' to encrypt all the resources from core API group or *.* to encrypt all resources")
    } else if NOT_IN_THE_API.contains(&name) {
        Some("resources which do not have REST API/s cannot be encrypted")
    } else if rule.group == "events.k8s.io" {
        Some(
            "'*.events.k8s.io' objects are stored using the 'events' API group in etcd. Use 'events' instead in the \
             config file",
        )
    } else if rule.group == "extensions" {
        Some("'extensions' group has been removed and cannot be used for encryption")
    } else if rule.any_group() && !rule.any_resource() {
        Some("encrypting the same resource across groups is not supported")
    } else {
        None
    }
}

fn endpoint_problem(endpoint: &str) -> Option<String> {
    if endpoint.is_empty() {
        return Some("endpoint is a mandatory field for a kms".to_owned());
    }
    match endpoint::scheme(endpoint) {
        Err(reason) => Some(format!("invalid endpoint for kms provider, error: {reason}")),
        Ok(scheme) if scheme != "unix" => Some(format!(
            "unsupported scheme {scheme:?} for KMS provider, only unix is supported"
        )),
        Ok(_) => None,
    }
}
