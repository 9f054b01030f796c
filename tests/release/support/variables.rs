//! Generates the variables of a manifest as a director does.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use rand::{Rng, distr::Alphanumeric};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use serde_yaml::{Mapping, Value};

use super::ops::Variables;

/// Length of a password that asks for none: that of the bosh CLI.
const PASSWORD_LENGTH: u64 = 20;

/// A value for each entry of the manifest's `variables`.
pub(crate) fn generate(manifest: &Value) -> anyhow::Result<Variables> {
    let mut variables = Variables::new();
    let mut issuers = BTreeMap::new();
    for entry in manifest["variables"].as_sequence().into_iter().flatten() {
        let name = entry["name"].as_str().context("a variable has a name")?;
        let value = match entry["type"].as_str() {
            Some("password") => password(&entry["options"]),
            Some("certificate") => certificate(name, &entry["options"], &mut issuers),
            other => bail!("type {other:?} is not known here"),
        };
        variables.insert(name.to_owned(), value.with_context(|| format!("variable {name}"))?);
    }
    Ok(variables)
}

fn password(options: &Value) -> anyhow::Result<Value> {
    let length = options["length"].as_u64().unwrap_or(PASSWORD_LENGTH);
    let random = rand::rng().sample_iter(Alphanumeric);
    Ok(random.take(usize::try_from(length)?).map(char::from).collect::<String>().into())
}

type Issuers = BTreeMap<String, CertifiedIssuer<'static, KeyPair>>;

/// `ca`, `certificate` and `private_key`. A CA stands before what it signs, as for the director.
fn certificate(name: &str, options: &Value, issuers: &mut Issuers) -> anyhow::Result<Value> {
    let names = strings(&options["alternative_names"])?;
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = DistinguishedName::new();
    let common_name = options["common_name"].as_str().context("no common_name")?;
    params.distinguished_name.push(DnType::CommonName, common_name);
    for usage in strings(&options["extended_key_usage"])? {
        params.extended_key_usages.push(match usage.as_str() {
            "server_auth" => ExtendedKeyUsagePurpose::ServerAuth,
            "client_auth" => ExtendedKeyUsagePurpose::ClientAuth,
            other => bail!("extended_key_usage {other}"),
        });
    }
    let key = KeyPair::generate()?;
    let private_key = key.serialize_pem();
    let (ca, certificate) = match (options["is_ca"].as_bool(), options["ca"].as_str()) {
        (Some(true), None) => {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let issuer = CertifiedIssuer::self_signed(params, key)?;
            let pem = issuer.pem();
            issuers.insert(name.to_owned(), issuer);
            (pem.clone(), pem)
        }
        (None, Some(ca)) => {
            let issuer = issuers.get(ca).with_context(|| format!("no CA {ca} stands before it"))?;
            (issuer.pem(), params.signed_by(&key, issuer)?.pem())
        }
        _ => bail!("either is_ca: true or the name of a ca is expected here"),
    };
    let parts = [("ca", ca), ("certificate", certificate), ("private_key", private_key)];
    let map: Mapping = parts.into_iter().map(|(key, pem)| (key.into(), pem.into())).collect();
    Ok(map.into())
}

/// A list of texts, or nothing.
fn strings(value: &Value) -> anyhow::Result<Vec<String>> {
    let items = value.as_sequence().map_or(&[][..], Vec::as_slice);
    items
        .iter()
        .map(|item| item.as_str().map(str::to_owned).with_context(|| format!("no text: {item:?}")))
        .collect()
}
