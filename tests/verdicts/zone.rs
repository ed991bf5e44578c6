//! The DNS that the messages are judged by.

use crate::cases::{Keys, RSA};
use crate::name_server::Record;

/// The test zone.
pub fn records(keys: &Keys) -> Vec<Record> {
    let mut records = Vec::new();
    let mut txt = |name: &str, value: &str| records.push(Record::Txt(name.to_owned(), value.to_owned()));

    let signers =
        ["dkim", "both", "mail.both", "strict", "mail.strict", "nodmarc"].map(|name| format!("{name}.example"));
    for domain in signers.iter().map(String::as_str).chain(["example"]) {
        for (name, _) in RSA.iter().filter(|(name, _)| *name != "else") {
            txt(&format!("{name}._domainkey.{domain}"), &format!("v=DKIM1; k=rsa; p={}", keys.get(name).public));
        }
        txt(&format!("ed._domainkey.{domain}"), &format!("v=DKIM1; k=ed25519; p={}", keys.get("ed").public));
    }
    let key = &keys.get("r2").public;
    let (begin, end) = key.split_at(100);
    for (selector, record) in [
        ("revoked", "v=DKIM1; p=".to_owned()),
        ("wrongtype", format!("v=DKIM1; k=ed25519; p={key}")),
        ("notkey", "v=spf1 -all".to_owned()),
        ("odd", format!(" v = DKIM1 ;k= rsa;  n=a note ; p={begin} {end} ; ")),
        ("testing", format!("v=DKIM1; t=y; p={key}")),
        ("strict", format!("v=DKIM1; t=s; p={key}")),
        ("tlsrpt", format!("v=DKIM1; s=tlsrpt; p={key}")),
        ("sha1only", format!("v=DKIM1; h=sha1; p={key}")),
    ] {
        txt(&format!("{selector}._domainkey.dkim.example"), &record);
    }

    let long = (0..40).map(|n| format!("ip4:198.51.100.{n} ")).collect::<String>();
    let ten = (0..10).map(|n| format!("include:l{n}.example ")).collect::<String>();
    for (name, record) in [
        ("ip4", "v=spf1 ip4:192.0.2.0/24 -all"),
        ("ip6", "v=spf1 ip6:2001:db8::/32 -all"),
        ("a", "v=spf1 a -all"),
        ("prefix", "v=spf1 a/24 -all"),
        ("mx", "v=spf1 mx -all"),
        ("ptr", "v=spf1 ptr -all"),
        ("inc", "v=spf1 include:ip4.example -all"),
        ("incinc", "v=spf1 include:inc.example -all"),
        ("neutralinc", "v=spf1 ?include:inc.example -all"),
        ("failinc", "v=spf1 -include:inc.example +all"),
        ("softinc", "v=spf1 include:softpart.example ?all"),
        ("softpart", "v=spf1 ~include:inc.example +all"),
        ("matchfirst", "v=spf1 ip4:192.0.2.10 ?include:neutral.example -all"),
        ("redir", "v=spf1 redirect=ip4.example"),
        ("redirnone", "v=spf1 redirect=gone.example"),
        ("incredir", "v=spf1 include:redir.example -all"),
        ("exists", "v=spf1 exists:%{ir}.%{v}._spf.%{d2} -all"),
        ("macro", "v=spf1 exists:%{l}._user.%{o} -all"),
        ("soft", "v=spf1 ~all"),
        ("neutral", "v=spf1 ?all"),
        ("nomatch", "v=spf1 ip4:198.51.100.1"),
        ("other", "some-verification=0123456789"),
        ("badip", "v=spf1 ip4:999.1.1.1 -all"),
        ("badmech", "v=spf1 lemon:juice -all"),
        ("badlater", "v=spf1 ip4:192.0.2.10 lemon:juice -all"),
        ("ten", &format!("v=spf1 {ten} ip4:192.0.2.10 -all")),
        ("eleven", &format!("v=spf1 {ten} include:ip4.example -all")),
        ("incnone", "v=spf1 include:gone.example -all"),
        ("loop", "v=spf1 include:loop.example -all"),
        ("void2", "v=spf1 a:v1.gone.example a:v2.gone.example ip4:192.0.2.10 -all"),
        ("void3", "v=spf1 a:v1.gone.example a:v2.gone.example a:v3.gone.example ip4:192.0.2.10 -all"),
        ("manymx", "v=spf1 mx -all"),
        ("exp", "v=spf1 -all exp=victim.example"),
        ("victim", "v=spf1 ip4:192.0.2.10 -all"),
        ("long", &format!("v=spf1 {long}ip4:192.0.2.10 -all")),
        ("upper", "V=SPF1 IP4:192.0.2.10 -ALL"),
        ("incservfail", "v=spf1 include:servfail.example -all"),
        ("aservfail", "v=spf1 a:servfail.example -all"),
        ("modifier", "v=spf1 moo.x=%{d}y ip4:192.0.2.10 -all"),
        ("helomacro", "v=spf1 exists:%{l}._user.%{o} -all"),
        ("pmacro", "v=spf1 exists:%{p}._p.%{d} -all"),
        ("oredir", "v=spf1 redirect=_spf.%{o}"),
        ("_spf.oredir", "v=spf1 ip4:192.0.2.10 -all"),
        ("helo", "v=spf1 a -all"),
        ("both", "v=spf1 ip4:192.0.2.10 -all"),
        ("evil", "v=spf1 ip4:192.0.2.10 -all"),
        ("mail.strict", "v=spf1 ip4:192.0.2.10 -all"),
        ("nodmarc", "v=spf1 ip4:192.0.2.10 -all"),
        ("else.subonly", "v=spf1 ip4:192.0.2.10 -all"),
        ("psdn", "v=spf1 ip4:192.0.2.10 -all"),
        ("tempspf", "v=spf1 include:servfail.example -all"),
        ("xn--bcher-kva", "v=spf1 ip4:192.0.2.10 -all"),
    ] {
        txt(&format!("{name}.example"), record);
    }
    for n in 0..10 {
        txt(&format!("l{n}.example"), "v=spf1 ?all");
    }
    txt("twospf.example", "v=spf1 ip4:192.0.2.10 -all");
    txt("twospf.example", "v=spf1 ip4:198.51.100.1 -all");

    for (name, record) in [
        ("dkim", "v=DMARC1; p=reject"),
        ("evil", "v=DMARC1; p=reject"),
        ("both", "v=DMARC1; p=reject; rua=mailto:dmarc@both.example"),
        ("strict", "v=DMARC1; p=reject; adkim=s; aspf=s"),
        ("pnone", "v=DMARC1; p=none"),
        ("pquarantine", "v=DMARC1; p=quarantine"),
        ("sp", "v=DMARC1; p=reject; sp=none"),
        ("np", "v=DMARC1; p=none; sp=quarantine; np=reject"),
        ("pct", "v=DMARC1; p=reject; pct=0"),
        ("tyes", "v=DMARC1; p=reject; t=y"),
        ("badp", "v=DMARC1; p=maybe"),
        ("badadkim", "v=DMARC1; adkim=q; p=reject"),
        ("onlyrua", "v=DMARC1; rua=mailto:dmarc@onlyrua.example"),
        ("versionlast", "p=reject; v=DMARC1"),
        ("oddspace", "v=DMARC1 ;p = reject ; ;"),
        ("mail.subonly", "v=DMARC1; p=reject"),
        ("psdn", "v=DMARC1; p=reject"),
        ("dept.psdn", "v=DMARC1; p=reject; psd=n"),
        ("tempspf", "v=DMARC1; p=reject"),
        ("helo", "v=DMARC1; p=reject"),
        ("xn--bcher-kva", "v=DMARC1; p=reject"),
    ] {
        txt(&format!("_dmarc.{name}.example"), record);
    }
    txt("_dmarc.twodmarc.example", "v=DMARC1; p=none");
    txt("_dmarc.twodmarc.example", "v=DMARC1; p=reject");
    txt("_dmarc.mixed.example", "verification=42");
    txt("_dmarc.mixed.example", "v=DMARC1; p=reject");

    let a = |name: &str, ip| Record::A(name.to_owned(), ip);
    records.extend([
        a("a.example", "192.0.2.10"),
        Record::Aaaa("a.example".to_owned(), "2001:db8::25"),
        a("prefix.example", "192.0.2.1"),
        a("mail.mx.example", "192.0.2.10"),
        Record::Mx("mx.example".to_owned(), 10, "mail.mx.example".to_owned()),
        a("host.ptr.example", "192.0.2.30"),
        Record::Ptr("30.2.0.192.in-addr.arpa".to_owned(), "host.ptr.example".to_owned()),
        a("10.2.0.192.in-addr._spf.exists.example", "127.0.0.2"),
        a("ann._user.macro.example", "127.0.0.2"),
        a("helo.example", "192.0.2.10"),
        a("postmaster._user.helomacro.example", "127.0.0.2"),
        a("host.ptr.example._p.pmacro.example", "127.0.0.2"),
        a("real.np.example", "192.0.2.10"),
    ]);
    for n in 0..11u16 {
        let host = format!("m{n}.manymx.example");
        records.push(a(&host, if n == 10 { "192.0.2.10" } else { "198.51.100.9" }));
        records.push(Record::Mx("manymx.example".to_owned(), n, host));
    }
    records
}
