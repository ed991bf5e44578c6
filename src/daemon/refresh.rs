//! Files that were replaced while the configuration stayed the same: each that is usable counts, and for each other one what was
//! read before.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use super::parts::{Parts, trusts};
use super::watch::{RESOLV_CONF, system_roots};
use crate::config::{Config, Connector, SecretFile};
use crate::dkim::SigningKey;
use crate::pipeline::SiteKey;

/// What became of changed files.
#[derive(Debug, Default)]
pub(super) struct Refreshed {
    /// The parts with what is new; `None` when all stays as it is.
    pub(super) parts: Option<Parts>,
    /// The files that were taken over.
    pub(super) replaced: Vec<PathBuf>,
    /// Files whose content is not what is in force: the next configuration reads them again, and is refused if they are of no use.
    pub(super) rejected: Vec<PathBuf>,
    /// Why a file was not taken over.
    pub(super) trouble: Vec<String>,
}

/// Reads the files that have `changed`.
pub(super) fn refresh(parts: &Parts, changed: &HashSet<PathBuf>) -> Refreshed {
    let mut refreshed = Refreshed::default();
    if changed.is_empty() {
        return refreshed;
    }
    let mut config = parts.config.clone();
    refreshed.keys(&mut config, changed);
    refreshed.passwords(&config, changed);
    let site_key = refreshed.site_key(parts, changed);

    let (mut remotes, failed) = parts.remotes(&config, changed);
    for failed in failed {
        parts.keep_remote(&mut remotes, &failed.connector);
        refreshed.rejected.extend(failed.trusts.map_or_else(system_roots, |file| vec![file]));
        refreshed.trouble.push(failed.problem);
    }
    let mut authorities: Vec<&PathBuf> = config
        .connectors
        .iter()
        .filter(|connector| parts.leads_elsewhere(&remotes, &connector.name))
        .flat_map(|connector| trusts(connector).flatten())
        .collect();
    authorities.sort();
    authorities.dedup();
    refreshed.replaced.extend(authorities.into_iter().cloned());
    // A new password counts with the next connection, new authorities with a new store.
    refreshed.replaced.extend(config.store.ca_file.iter().filter(|file| changed.contains(*file)).cloned());
    let system = system_roots().into_iter().chain([PathBuf::from(RESOLV_CONF)]);
    refreshed.replaced.extend(system.filter(|path| changed.contains(path)));
    if refreshed.replaced.is_empty() {
        return refreshed;
    }
    match parts.next(config, site_key, remotes, changed) {
        Ok(parts) => refreshed.parts = Some(parts),
        Err(problems) => {
            refreshed.rejected.append(&mut refreshed.replaced);
            refreshed.trouble.extend(problems);
        }
    }
    refreshed
}

impl Refreshed {
    /// Puts replaced DKIM keys into `config`.
    fn keys(&mut self, config: &mut Config, changed: &HashSet<PathBuf>) {
        for signing in config.signing.iter_mut().filter(|signing| changed.contains(signing.key_file.path())) {
            self.key(&signing.key_file, &mut signing.key);
        }
        for connector in &mut config.connectors {
            if !connector.dkim.iter().any(|key| changed.contains(key.key_file.path())) {
                continue;
            }
            let mut with_new_keys = Connector::clone(connector);
            for key in with_new_keys.dkim.iter_mut().filter(|key| changed.contains(key.key_file.path())) {
                self.key(&key.key_file, &mut key.key);
            }
            *connector = Arc::new(with_new_keys);
        }
    }

    fn key(&mut self, file: &SecretFile, key: &mut Arc<SigningKey>) {
        match SigningKey::load(file) {
            Ok(new) if new == **key => {}
            Ok(new) => {
                *key = Arc::new(new);
                self.replaced(file);
            }
            Err(error) => {
                self.rejected.push(file.path().to_owned());
                self.trouble.push(error.to_string());
            }
        }
    }

    /// Passwords are read when they are needed; that one is not usable is better told before.
    fn passwords(&mut self, config: &Config, changed: &HashSet<PathBuf>) {
        let files = config.connectors.iter().flat_map(|connector| connector.password_files());
        let files = files.chain(&config.store.password_file);
        for file in files.filter(|file| changed.contains(file.path())) {
            match file.read_password() {
                Ok(_) => self.replaced(file),
                Err(error) => self.trouble.push(error.to_string()),
            }
        }
    }

    fn site_key(&mut self, parts: &Parts, changed: &HashSet<PathBuf>) -> SiteKey {
        let file = &parts.config.daemon.site_key_file;
        if changed.contains(file.path()) {
            match SiteKey::load(file) {
                Ok(new) => {
                    self.replaced(file);
                    return new;
                }
                Err(error) => self.trouble.push(error),
            }
        }
        parts.site_key.clone()
    }

    fn replaced(&mut self, file: &SecretFile) {
        self.replaced.push(file.path().to_owned());
    }
}
