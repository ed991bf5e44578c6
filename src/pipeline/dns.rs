//! DNS for authentication: bounded resolver, bounded caches.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mail_auth::hickory_resolver::TokioResolver;
use mail_auth::hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use mail_auth::hickory_resolver::net::runtime::TokioRuntimeProvider;
use mail_auth::hickory_resolver::proto::rr::{Name, RData, Record};
use mail_auth::hickory_resolver::system_conf::read_system_conf;
use mail_auth::spf::SpfRecord;
use mail_auth::{
    DnsCache, DnsError, Error, MessageAuthenticator, Mx, Negative, RecordSet, ResolverCache, SpfResult, TxtRecord,
};

use super::{acceptable, dmarc_record, spf_record};

/// One query to one name server.
const QUERY_TIMEOUT: Duration = Duration::from_secs(3);
/// Names in one cache at most; a full cache drops what has expired, or else everything.
const CACHE_ENTRIES: usize = 10_000;
/// Octets of TXT records beyond which an SPF record is looked up anew each time (RFC 7208 section 3.4 advises to stay below 450).
const CACHED_TEXT_MAX: usize = 4_096;
/// No answer is believed for longer, whatever its TTL says.
const TTL_MAX: Duration = Duration::from_secs(6 * 3600);
/// Queries under way at a time on one connection to a name server; hickory's 32 answers `busy` in a burst.
const ACTIVE_REQUESTS: usize = 1_024;

/// Events of this target are counted, and never written to the log.
const COUNTED: &str = "deskmilter::dns";

/// The resolvers, asking `name_servers`, or the system's where there are none: the library's, and one for text records as
/// they are.
///
/// # Errors
/// The system's resolver configuration cannot be read.
pub(crate) fn resolvers(name_servers: &[SocketAddr]) -> Result<(MessageAuthenticator, Texts), String> {
    let servers: Vec<NameServerConfig> = if name_servers.is_empty() {
        system_name_servers()?
    } else {
        name_servers.iter().map(|&server| name_server(server)).collect()
    };
    let mut options = ResolverOpts::default();
    options.timeout = QUERY_TIMEOUT;
    options.attempts = 2;
    // Answers are cached by us, already parsed and apart for each method.
    options.cache_size = 0;
    // The names are of strangers: /etc/hosts is not asked.
    options.use_hosts_file = ResolveHosts::Never;
    options.max_active_requests = ACTIVE_REQUESTS;
    options.try_tcp_on_error = true;
    let config = ResolverConfig::from_parts(None, Vec::new(), servers);
    let trouble = |error| format!("the DNS resolver cannot be set up: {error}");
    let texts = TokioResolver::builder_with_config(config.clone(), TokioRuntimeProvider::default())
        .with_options(options.clone())
        .build()
        .map_err(trouble)?;
    let authenticator = MessageAuthenticator::new(config, options).map_err(trouble)?;
    Ok((authenticator, Texts { resolver: texts, spf: Records::default(), keys: Records::default() }))
}

/// The servers of /etc/resolv.conf. Without any, the one on this host, as resolv.conf(5) says: the resolver library would
/// fall back to public servers, and who writes to whom is nobody else's business.
fn system_name_servers() -> Result<Vec<NameServerConfig>, String> {
    let configured = std::fs::read_to_string("/etc/resolv.conf")
        .is_ok_and(|text| text.lines().any(|line| line.split_whitespace().next() == Some("nameserver")));
    if !configured {
        return Ok(vec![name_server(SocketAddr::from(([127, 0, 0, 1], 53)))]);
    }
    let (config, _) = read_system_conf()
        .map_err(|error| format!("/etc/resolv.conf: {error}; correct it or set authentication.name_servers"))?;
    Ok(config.into_parts().2)
}

fn name_server(server: SocketAddr) -> NameServerConfig {
    let mut config = NameServerConfig::udp_and_tcp(server.ip());
    for connection in &mut config.connections {
        connection.port = server.port();
    }
    config
}

/// Answers by name or address until they expire.
pub(super) struct Records<K, V>(Mutex<HashMap<K, (V, Instant)>>);

impl<K, V> Default for Records<K, V> {
    fn default() -> Self {
        Self(Mutex::new(HashMap::new()))
    }
}

impl<K, V> Records<K, V> {
    /// A thread that panicked while it held the lock has left a map that is still whole.
    fn lock(&self) -> MutexGuard<'_, HashMap<K, (V, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Hash + Eq, V: Clone> ResolverCache<K, V> for Records<K, V> {
    fn get<Q>(&self, name: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let records = self.lock();
        let (value, expires) = records.get(name)?;
        let known = (*expires > Instant::now()).then(|| value.clone());
        drop(records);
        if known.is_some() {
            tracing::trace!(target: COUNTED, "dns cached");
        }
        known
    }

    fn remove<Q>(&self, name: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.lock().remove(name).map(|(value, _)| value)
    }

    fn insert(&self, key: K, value: V, valid_until: Instant) {
        let now = Instant::now();
        let mut records = self.lock();
        if records.len() >= CACHE_ENTRIES {
            records.retain(|_, (_, expires)| *expires > now);
            if records.len() >= CACHE_ENTRIES {
                records.clear();
            }
        }
        records.insert(key, (value, valid_until.min(now + TTL_MAX)));
    }
}

/// TXT records as they are: the library tells neither how many there are nor what it cannot read in one.
pub(crate) struct Texts {
    resolver: TokioResolver,
    spf: Records<String, Result<Arc<SpfRecord>, SpfResult>>,
    keys: Records<String, Option<&'static str>>,
}

/// The TXT records of a name, and until when they may be kept.
struct TextSet {
    texts: Vec<Vec<u8>>,
    valid_until: Instant,
}

impl TextSet {
    /// Whether this is small enough to be kept.
    fn is_small(&self) -> bool {
        self.texts.iter().map(Vec::len).sum::<usize>() <= CACHED_TEXT_MAX
    }
}

impl Texts {
    /// The SPF record of `domain`.
    ///
    /// # Errors
    /// `None`, `PermError` and `TempError`, as RFC 7208 sections 4.4 and 4.5 say.
    pub(super) async fn spf(&self, domain: &str) -> Result<Arc<SpfRecord>, SpfResult> {
        let name = format!("{}.", domain.trim_end_matches('.').to_lowercase());
        if let Some(known) = self.spf.get(&name) {
            return known;
        }
        let found = self.look_up(&name).await?.ok_or(SpfResult::None)?;
        let selected = spf_record::select(&found.texts).map(Arc::new);
        if found.is_small() {
            self.spf.insert(name, selected.clone(), found.valid_until);
        }
        selected
    }

    /// Why the DKIM key at `name` is not for mail signed with SHA-256, or `None`.
    ///
    /// # Errors
    /// `TempError`: the name server does not answer.
    pub(super) async fn key_objection(&self, name: String) -> Result<Option<&'static str>, SpfResult> {
        if let Some(known) = self.keys.get(&name) {
            return Ok(known);
        }
        let Some(found) = self.look_up(&name).await? else { return Ok(None) };
        let objection = acceptable::key_objection(&found.texts);
        self.keys.insert(name, objection, found.valid_until);
        Ok(objection)
    }

    /// Puts the DMARC record at `name` (`_dmarc.`, ending with a dot) into `cache`, as the library would find it if it read
    /// records as RFC 9989 says. Where there is no answer the library asks again, and sees.
    /// It stays until `deadline` at least, whatever its TTL says: as long as this message is judged.
    pub(super) async fn fetch_dmarc(&self, name: &str, cache: &Cache, deadline: Instant) {
        if cache.txt.get(name).is_some() {
            return;
        }
        let Ok(Some(found)) = self.look_up(name).await else { return };
        let record = match dmarc_record::select(&found.texts) {
            Some(record) => TxtRecord::Dmarc(Arc::new(record)),
            None => TxtRecord::Error(Error::Dns(DnsError::InvalidRecordType)),
        };
        cache.txt.insert(name.into(), record, found.valid_until.max(deadline));
    }

    async fn look_up(&self, name: &str) -> Result<Option<TextSet>, SpfResult> {
        let Ok(asked) = Name::from_str_relaxed(name) else { return Ok(None) };
        tracing::trace!(target: COUNTED, "dns asked");
        let answer = match self.resolver.txt_lookup(asked).await {
            Ok(answer) => answer,
            Err(error) if error.is_no_records_found() => return Ok(None),
            Err(_) => {
                tracing::trace!(target: COUNTED, "dns failed");
                return Err(SpfResult::TempError);
            }
        };
        let text = |record: &Record| match &record.data {
            RData::TXT(text) => Some(text.txt_data.concat()),
            _ => None,
        };
        let texts = answer.answers().iter().filter_map(text).collect();
        Ok(Some(TextSet { texts, valid_until: answer.valid_until() }))
    }
}

type Answer<T> = Result<RecordSet<T>, Negative>;

/// The caches of one method.
#[derive(Default)]
pub(super) struct Cache {
    pub(super) txt: Records<Box<str>, TxtRecord>,
    pub(super) mx: Records<Box<str>, Answer<Mx>>,
    pub(super) ipv4: Records<Box<str>, Answer<Ipv4Addr>>,
    pub(super) ipv6: Records<Box<str>, Answer<Ipv6Addr>>,
    pub(super) ptr: Records<IpAddr, Answer<Box<str>>>,
}

impl DnsCache for Cache {
    type Txt = Records<Box<str>, TxtRecord>;
    type Mx = Records<Box<str>, Answer<Mx>>;
    type Ipv4 = Records<Box<str>, Answer<Ipv4Addr>>;
    type Ipv6 = Records<Box<str>, Answer<Ipv6Addr>>;
    type Ptr = Records<IpAddr, Answer<Box<str>>>;

    fn txt(&self) -> Option<&Self::Txt> {
        Some(&self.txt)
    }

    fn mx(&self) -> Option<&Self::Mx> {
        Some(&self.mx)
    }

    fn ipv4(&self) -> Option<&Self::Ipv4> {
        Some(&self.ipv4)
    }

    fn ipv6(&self) -> Option<&Self::Ipv6> {
        Some(&self.ipv6)
    }

    fn ptr(&self) -> Option<&Self::Ptr> {
        Some(&self.ptr)
    }
}

/// One cache a method: TXT answers are kept parsed, and an SPF record may name any domain, so that in a shared cache a
/// stranger's record could leave "not an SPF record" where another's DKIM key is looked for.
#[derive(Default)]
pub(super) struct Caches {
    pub(super) spf: Cache,
    pub(super) dkim: Cache,
    pub(super) dmarc: Cache,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_forgets_what_has_expired_and_never_grows_beyond_its_bound() {
        let records: Records<String, u8> = Records::default();
        let later = Instant::now() + Duration::from_secs(60);
        records.insert("old".to_owned(), 1, Instant::now());
        records.insert("new".to_owned(), 2, later);
        assert_eq!((records.get("old"), records.get("new")), (None, Some(2)));
        for n in 0..2 * CACHE_ENTRIES {
            records.insert(n.to_string(), 0, later);
        }
        assert!(records.lock().len() <= CACHE_ENTRIES);
    }
}
