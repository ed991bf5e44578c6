//! check_host() of RFC 7208. The library reads the records, expands the macros and looks up addresses; the evaluation is ours,
//! because the library's passes an `include` that passes below a `?include` or `-include`, and looks at `exp=` of strangers.

use std::net::IpAddr;
use std::pin::Pin;

use mail_auth::spf::{Macro, Mechanism, Qualifier, SpfRecord, Variables};
use mail_auth::{DnsError, Error, MessageAuthenticator, SpfResult};

use super::dns::{Cache, Texts};
use crate::mail::Domain;

/// Terms that need the DNS, in one evaluation (RFC 7208 section 4.6.4).
const LOOKUPS_MAX: usize = 10;
/// Look-ups that find nothing, in one evaluation (RFC 7208 section 4.6.4).
const VOID_LOOKUPS_MAX: usize = 2;
/// Mail exchangers of one `mx`, and names of one `ptr` (RFC 7208 section 4.6.4).
const NAMES_MAX: usize = 10;

/// One evaluation.
pub(super) struct Check<'a> {
    pub(super) resolver: &'a MessageAuthenticator,
    pub(super) texts: &'a Texts,
    pub(super) cache: &'a Cache,
    pub(super) ip: IpAddr,
    /// `local@domain`; postmaster of the HELO name for the null reverse-path.
    pub(super) sender: String,
    pub(super) helo: &'a str,
    pub(super) hostname: &'a str,
    /// Begin at 0.
    pub(super) lookups: usize,
    pub(super) void_lookups: usize,
}

impl Check<'_> {
    /// The result for `domain`. Look-ups are bounded in number; the caller bounds the time.
    pub(super) async fn host(&mut self, domain: &str) -> SpfResult {
        match self.evaluate(domain.to_owned()).await {
            Ok(result) | Err(result) => result,
        }
    }

    /// An error ends the whole evaluation, unless it is that of an included domain without a record.
    fn evaluate(&mut self, domain: String) -> Pin<Box<dyn Future<Output = Result<SpfResult, SpfResult>> + Send + '_>> {
        Box::pin(async move {
            // RFC 7208 section 4.3: a literal, a single label and what is no domain name have no record.
            if !Domain::parse(&domain).is_ok_and(|domain| domain.as_str().contains('.')) {
                return Ok(SpfResult::None);
            }
            let record = match self.texts.spf(&domain).await {
                Ok(record) => record,
                Err(SpfResult::None) => return Ok(SpfResult::None),
                Err(result) => return Err(result),
            };
            self.follow(&record, &domain).await
        })
    }

    async fn follow(&mut self, record: &SpfRecord, domain: &str) -> Result<SpfResult, SpfResult> {
        let variables = self.variables(domain, record).await?;
        for directive in &record.directives {
            if self.matches(&directive.mechanism, domain, &variables).await? {
                return Ok(match directive.qualifier {
                    Qualifier::Pass => SpfResult::Pass,
                    Qualifier::Fail => SpfResult::Fail,
                    Qualifier::SoftFail => SpfResult::SoftFail,
                    Qualifier::Neutral => SpfResult::Neutral,
                });
            }
        }
        let Some(redirect) = &record.redirect else { return Ok(SpfResult::Neutral) };
        self.count_lookup()?;
        let target = redirect.eval(&variables, domain, false).into_owned();
        match self.evaluate(target).await? {
            SpfResult::None => Err(SpfResult::PermError),
            result => Ok(result),
        }
    }

    async fn matches(
        &mut self,
        mechanism: &Mechanism,
        domain: &str,
        variables: &Variables<'_>,
    ) -> Result<bool, SpfResult> {
        match mechanism {
            Mechanism::All => Ok(true),
            Mechanism::Ip4 { addr, mask } => Ok(self.is_within((*addr).into(), *mask, u128::MAX)),
            Mechanism::Ip6 { addr, mask } => Ok(self.is_within((*addr).into(), u32::MAX, *mask)),
            Mechanism::A { macro_string, ip4_mask, ip6_mask } => {
                self.count_lookup()?;
                let target = macro_string.eval(variables, domain, false).into_owned();
                self.has_address(&target, *ip4_mask, *ip6_mask, true).await
            }
            Mechanism::Mx { macro_string, ip4_mask, ip6_mask } => {
                self.count_lookup()?;
                let target = macro_string.eval(variables, domain, false).into_owned();
                let found = self.resolver.mx_lookup(target.as_str(), Some(&self.cache.mx)).await;
                let Some(exchangers) = self.answered(found, true)? else { return Ok(false) };
                let hosts: Vec<&str> =
                    exchangers.records.iter().flat_map(|mx| mx.exchanges.iter().map(AsRef::as_ref)).collect();
                if hosts.len() > NAMES_MAX {
                    return Err(SpfResult::PermError);
                }
                for host in hosts {
                    if self.has_address(host, *ip4_mask, *ip6_mask, true).await? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Mechanism::Include { macro_string } => {
                self.count_lookup()?;
                let target = macro_string.eval(variables, domain, false).into_owned();
                // RFC 7208 section 5.2: only a pass of the other record matches here.
                match self.evaluate(target).await? {
                    SpfResult::None => Err(SpfResult::PermError),
                    result => Ok(result == SpfResult::Pass),
                }
            }
            Mechanism::Exists { macro_string } => {
                self.count_lookup()?;
                let target = macro_string.eval(variables, domain, false).into_owned();
                // A alone, whatever the client's address is (RFC 7208 section 5.7).
                let found = self.resolver.ipv4_lookup(target.as_str(), Some(&self.cache.ipv4)).await;
                Ok(self.answered(found, true)?.is_some())
            }
            Mechanism::Ptr { macro_string } => {
                self.count_lookup()?;
                let target = macro_string.eval(variables, domain, false).to_lowercase();
                let names = self.validated_names().await;
                Ok(names.iter().any(|name| is_at_or_below(name, target.trim_end_matches('.'))))
            }
        }
    }

    fn count_lookup(&mut self) -> Result<(), SpfResult> {
        self.lookups = self.lookups.saturating_add(1);
        if self.lookups > LOOKUPS_MAX { Err(SpfResult::PermError) } else { Ok(()) }
    }

    /// The answer; `None` where there is no such record, which counts where `void` says so.
    fn answered<T>(&mut self, found: mail_auth::Result<T>, void: bool) -> Result<Option<T>, SpfResult> {
        match found {
            Ok(answer) => Ok(Some(answer)),
            // A name that cannot be one has no records.
            Err(Error::Dns(DnsError::RecordNotFound(_)) | Error::Parse) => {
                self.void_lookups = self.void_lookups.saturating_add(usize::from(void));
                if self.void_lookups > VOID_LOOKUPS_MAX { Err(SpfResult::PermError) } else { Ok(None) }
            }
            Err(_) => Err(SpfResult::TempError),
        }
    }

    async fn has_address(&mut self, name: &str, ip4: u32, ip6: u128, void: bool) -> Result<bool, SpfResult> {
        let addresses: Vec<IpAddr> = if self.ip.is_ipv4() {
            let found = self.resolver.ipv4_lookup(name, Some(&self.cache.ipv4)).await;
            let found = self.answered(found, void)?;
            found.iter().flat_map(|found| found.records.iter()).map(|&ip| ip.into()).collect()
        } else {
            let found = self.resolver.ipv6_lookup(name, Some(&self.cache.ipv6)).await;
            let found = self.answered(found, void)?;
            found.iter().flat_map(|found| found.records.iter()).map(|&ip| ip.into()).collect()
        };
        Ok(addresses.into_iter().any(|address| self.is_within(address, ip4, ip6)))
    }

    /// An IPv4 network never holds an IPv6 client, nor the other way round (RFC 7208 section 5).
    fn is_within(&self, network: IpAddr, ip4: u32, ip6: u128) -> bool {
        match (self.ip, network) {
            (IpAddr::V4(ip), IpAddr::V4(network)) => ip.to_bits() & ip4 == network.to_bits() & ip4,
            (IpAddr::V6(ip), IpAddr::V6(network)) => ip.to_bits() & ip6 == network.to_bits() & ip6,
            _ => false,
        }
    }

    /// Names of the client that lead back to it (RFC 7208 section 5.5). DNS trouble means that there are none.
    async fn validated_names(&mut self) -> Vec<String> {
        let Ok(found) = self.resolver.ptr_lookup(self.ip, Some(&self.cache.ptr)).await else { return Vec::new() };
        let mut names = Vec::new();
        for name in found.records.iter().take(NAMES_MAX) {
            if self.has_address(name, u32::MAX, u128::MAX, false).await == Ok(true) {
                names.push(name.trim_end_matches('.').to_lowercase());
            }
        }
        names
    }

    async fn variables(&mut self, domain: &str, record: &SpfRecord) -> Result<Variables<'static>, SpfResult> {
        let mut variables = Variables::new();
        variables.set_ip(&self.ip);
        variables.set_sender(self.sender.clone().into_bytes());
        variables.set_domain(domain.as_bytes().to_vec());
        variables.set_helo_domain(self.helo.as_bytes().to_vec());
        variables.set_host_domain(self.hostname.as_bytes().to_vec());
        let asks = record.directives.iter().any(|directive| directive.mechanism.needs_ptr())
            || record.redirect.as_ref().is_some_and(Macro::needs_ptr);
        if asks {
            self.count_lookup()?;
            // RFC 7208 section 7.3.
            let names = self.validated_names().await;
            let own = names.iter().find(|name| is_at_or_below(name, domain)).or_else(|| names.first());
            variables.set_validated_domain(own.map_or("unknown", String::as_str).as_bytes().to_vec());
        }
        Ok(variables)
    }
}

fn is_at_or_below(name: &str, domain: &str) -> bool {
    name.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}
