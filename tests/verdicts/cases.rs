//! The messages.

use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// A message as the MTA hands it over.
pub struct Case {
    pub name: &'static str,
    pub message: Vec<u8>,
    pub client: &'static str,
    pub helo: String,
    pub sender: String,
}

/// Who makes a signature, so that both directions are tried.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// mail-auth, the library that we verify with.
    Ours,
    /// dkimpy's own signer.
    Dkimpy,
    /// Exactly the tags of the case, sensible or not, signed with dkimpy's primitives.
    AsTold,
}

/// A signature to be made.
#[derive(Clone)]
pub struct Sign {
    pub by: By,
    pub key: &'static str,
    pub algorithm: &'static str,
    pub canonicalization: &'static str,
    pub tags: Vec<(String, String)>,
    pub headers: Vec<&'static str>,
}

/// A message before its signatures are made.
pub struct Draft {
    pub name: &'static str,
    pub message: Vec<u8>,
    pub signatures: Vec<Sign>,
    alter: fn(Vec<u8>) -> Vec<u8>,
    client: &'static str,
    helo: String,
    sender: String,
}

/// Fresh keys of a run, by name.
pub struct Keys(Vec<Key>);

pub struct Key {
    pub name: &'static str,
    /// PKCS#1 PEM, or the base64 of an Ed25519 seed.
    pub private: String,
    /// Base64 for `p=`.
    pub public: String,
}

/// RSA keys by name, with their bits.
pub const RSA: &[(&str, &str)] = &[("r2", "2048"), ("r1", "1024"), ("r05", "512"), ("else", "2048")];

impl Keys {
    pub fn generate() -> Self {
        let mut keys: Vec<Key> = RSA
            .iter()
            .map(|&(name, bits)| {
                let private = openssl(&["genrsa", "-traditional", bits], b"");
                let public = openssl(&["rsa", "-pubout", "-outform", "DER"], &private);
                Key { name, private: String::from_utf8(private).unwrap(), public: STANDARD.encode(public) }
            })
            .collect();
        let private = openssl(&["genpkey", "-algorithm", "ed25519", "-outform", "DER"], b"");
        let public = openssl(&["pkey", "-inform", "DER", "-pubout", "-outform", "DER"], &private);
        let last = |der: &[u8]| STANDARD.encode(&der[der.len() - 32..]);
        keys.push(Key { name: "ed", private: last(&private), public: last(&public) });
        Self(keys)
    }

    pub fn get(&self, name: &str) -> &Key {
        self.0.iter().find(|key| key.name == name).unwrap()
    }
}

fn openssl(arguments: &[&str], input: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut child = Command::new("openssl")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("openssl: {error}; run tests/peers/install.sh"));
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "openssl {arguments:?}");
    output.stdout
}

/// A signature of `domain` by us, relaxed/relaxed, over the usual fields.
fn ours(key: &'static str, domain: &str) -> Sign {
    Sign {
        by: By::Ours,
        key,
        algorithm: if key == "ed" { "ed25519-sha256" } else { "rsa-sha256" },
        canonicalization: "relaxed/relaxed",
        tags: vec![("s".to_owned(), key.to_owned()), ("d".to_owned(), domain.to_owned())],
        headers: vec!["From", "To", "Subject", "Date", "Message-ID"],
    }
}

fn dkimpy(key: &'static str, domain: &str) -> Sign {
    Sign { by: By::Dkimpy, ..ours(key, domain) }
}

fn as_told(key: &'static str, domain: &str) -> Sign {
    let mut sign = Sign { by: By::AsTold, ..ours(key, domain) };
    sign.tags.insert(0, ("v".to_owned(), "1".to_owned()));
    sign
}

impl Sign {
    fn canonical(self, canonicalization: &'static str) -> Self {
        Self { canonicalization, ..self }
    }

    fn tag(mut self, name: &str, value: impl ToString) -> Self {
        self.tags.retain(|(tag, _)| tag != name);
        self.tags.push((name.to_owned(), value.to_string()));
        self
    }

    fn again(mut self, name: &str, value: &str) -> Self {
        self.tags.push((name.to_owned(), value.to_owned()));
        self
    }

    fn without(mut self, name: &str) -> Self {
        self.tags.retain(|(tag, _)| tag != name);
        self
    }

    fn headers(self, headers: &[&'static str]) -> Self {
        Self { headers: headers.to_vec(), ..self }
    }

    fn algorithm(self, algorithm: &'static str) -> Self {
        Self { algorithm, ..self }
    }
}

const BODY: &str = "Hello,\r\n\r\nthe  printer\tis on fire. \r\n  Please help.\t\r\n\r\n\r\n";

/// Mail from `ann@domain` by way of a client that no record knows.
fn from(name: &'static str, domain: &str) -> Draft {
    author(name, &format!("From: Ann Example <ann@{domain}>\r\n"), domain)
}

/// Mail with just this From field, or these, or none.
fn author(name: &'static str, fields: &str, domain: &str) -> Draft {
    let message = format!(
        "{fields}To: Support <support@acme.example>\r\nSubject: Printer  on\r\n\t fire\r\nDate: Sun, 22 Nov 2026 08:00:00 +0000\r\nMessage-ID: <1@{domain}>\r\n\r\n{BODY}"
    );
    Draft {
        name,
        message: message.into_bytes(),
        signatures: Vec::new(),
        alter: |message| message,
        client: "203.0.113.9",
        helo: "client.nospf.example".to_owned(),
        sender: "bounce@nospf.example".to_owned(),
    }
}

/// Mail from `ann@domain` with that envelope sender, from the client that the records know.
fn spf(name: &'static str, domain: &str) -> Draft {
    from(name, domain).by("192.0.2.10", &format!("ann@{domain}"))
}

impl Draft {
    fn by(mut self, client: &'static str, sender: &str) -> Self {
        self.client = client;
        self.sender = sender.to_owned();
        self
    }

    fn helo(mut self, helo: &str) -> Self {
        self.helo = helo.to_owned();
        self
    }

    fn signed(mut self, sign: Sign) -> Self {
        self.signatures.push(sign);
        self
    }

    fn body(mut self, body: &[u8]) -> Self {
        let end = self.message.windows(4).position(|part| part == b"\r\n\r\n").unwrap() + 4;
        self.message.truncate(end);
        self.message.extend_from_slice(body);
        self
    }

    fn then(mut self, alter: fn(Vec<u8>) -> Vec<u8>) -> Self {
        self.alter = alter;
        self
    }

    /// The case, with the signature fields on top.
    pub fn finish(self, fields: &[Vec<u8>]) -> Case {
        let message = (self.alter)([fields.concat(), self.message].concat());
        Case { name: self.name, message, client: self.client, helo: self.helo, sender: self.sender }
    }
}

fn replace(message: Vec<u8>, old: &str, new: &str) -> Vec<u8> {
    // Octets become characters one to one, so that nothing but `old` changes.
    let text: String = message.iter().map(|&octet| char::from(octet)).collect();
    assert!(text.contains(old), "{old:?}");
    text.replace(old, new).chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect()
}

/// All cases. `now` is in seconds since 1970.
pub fn drafts(now: u64) -> Vec<Draft> {
    let mut drafts = dkim(now);
    drafts.extend(spf_cases());
    drafts.extend(dmarc());
    drafts
}

fn dkim(now: u64) -> Vec<Draft> {
    let d = "dkim.example";
    let long_ago = now - 100 * 86_400;
    vec![
        from("rsa-sha256 relaxed/relaxed, signed by mail-auth", d).signed(ours("r2", d)),
        from("rsa-sha256 relaxed/relaxed, signed by dkimpy", d).signed(dkimpy("r2", d)),
        from("simple/simple, signed by mail-auth", d).signed(ours("r2", d).canonical("simple/simple")),
        from("simple/simple, signed by dkimpy", d).signed(dkimpy("r2", d).canonical("simple/simple")),
        from("relaxed/simple, signed by mail-auth", d).signed(ours("r2", d).canonical("relaxed/simple")),
        from("simple/relaxed, signed by dkimpy", d).signed(dkimpy("r2", d).canonical("simple/relaxed")),
        from("ed25519 signed by mail-auth", d).signed(ours("ed", d)),
        from("ed25519 signed by dkimpy", d).signed(dkimpy("ed", d)),
        from("two signatures, both good", d).signed(ours("r2", d)).signed(dkimpy("ed", d)),
        from("two signatures, the first one bad", d).signed(as_told("else", d).tag("s", "r2")).signed(ours("ed", d)),
        from("two signatures, the second one bad", d).signed(ours("ed", d)).signed(as_told("else", d).tag("s", "r2")),
        from("body changed", d).signed(ours("r2", d)).then(|m| replace(m, "on fire.", "all right.")),
        from("signed field changed", d).signed(dkimpy("r2", d)).then(|m| replace(m, "Printer", "Scanner")),
        from("field added above one that is signed once", d)
            .signed(dkimpy("r2", d))
            .then(|m| replace(m, "To: Support", "Subject: other\r\nTo: Support")),
        from("field added where it is oversigned", d)
            .signed(ours("r2", d).headers(&["From", "From", "Subject", "Subject", "To"]))
            .then(|m| replace(m, "To: Support", "Subject: other\r\nTo: Support")),
        from("oversigned and untouched", d).signed(dkimpy("r2", d).headers(&["From", "From", "Subject", "Subject"])),
        from("relaxed survives refolding, simple does not", d)
            .signed(ours("r2", d))
            .signed(dkimpy("r1", d).canonical("simple/relaxed"))
            .then(|m| replace(m, "Printer  on\r\n\t fire", "Printer\r\n on fire")),
        from("relaxed/relaxed with blanks added at line ends", d)
            .signed(ours("r2", d))
            .then(|m| replace(m, "Please help.", "Please help. \t ")),
        from("simple body with blanks added at line ends", d)
            .signed(ours("r2", d).canonical("relaxed/simple"))
            .then(|m| replace(m, "Please help.", "Please help. \t ")),
        from("empty lines added at the end", d)
            .signed(ours("r2", d).canonical("simple/simple"))
            .then(|m| [m, b"\r\n\r\n".to_vec()].concat()),
        from("lines of blanks at the end, relaxed", d)
            .signed(dkimpy("r2", d))
            .body(b"Hello\r\n \t\r\n  \r\n")
            .then(|m| replace(m, "\t\r\n  \r\n", "\r\n\r\n")),
        from("empty body, relaxed", d).body(b"").signed(ours("r2", d)),
        from("empty body, simple", d).body(b"").signed(dkimpy("r2", d).canonical("simple/simple")),
        from("body of one empty line, simple", d).body(b"\r\n").signed(dkimpy("r2", d).canonical("simple/simple")),
        from("body without final CRLF", d).body(b"Hello").signed(dkimpy("r2", d).canonical("relaxed/simple")),
        from("blank after the last CRLF", d)
            .body(b"Hello\r\n")
            .signed(dkimpy("r2", d))
            .then(|m| [m, b" ".to_vec()].concat()),
        from("8-bit body", d).body(b"Gr\xc3\xbc\xc3\x9fe, \xff\xfe\x80\r\n").signed(dkimpy("r2", d)),
        author("8-bit header field", "From: J\u{fc}rgen <ann@dkim.example>\r\n", d).signed(dkimpy("r2", d)),
        from("bare CR in the body, relaxed", d).body(b"a\rb \r\n").signed(dkimpy("r2", d)),
        from("bare CR in the body, simple", d).body(b"a\rb\r\n").signed(dkimpy("r2", d).canonical("simple/simple")),
        author("tabs and no blank after the colon", "From:\t\"Ann\"\r\n\t<ann@dkim.example>  \r\nX-Empty:\r\n", d)
            .signed(dkimpy("r2", d).headers(&["from", "to", "x-empty", "subject"])),
        author("no blank after the colon, simple", "From:Ann <ann@dkim.example>\r\n", d)
            .signed(dkimpy("r2", d).canonical("simple/simple")),
        from("signature field itself oddly folded", d)
            .signed(as_told("r2", d).tag("t", format!("\r\n\t {now}")).tag("q", "dns/txt")),
        from("expired", d).signed(as_told("r2", d).tag("t", long_ago).tag("x", long_ago + 86_400)),
        from("expires tomorrow", d).signed(as_told("r2", d).tag("t", now).tag("x", now + 86_400)),
        from("expires before it was made", d).signed(as_told("r2", d).tag("t", now + 9_000).tag("x", now + 8_000)),
        from("made far in the future", d).signed(as_told("r2", d).tag("t", now + 30 * 86_400)),
        from("key revoked", d).signed(as_told("r2", d).tag("s", "revoked")),
        from("no key", d).signed(as_told("r2", d).tag("s", "gone")),
        from("another key", d).signed(as_told("else", d).tag("s", "r2")),
        from("key of another type", d).signed(as_told("r2", d).tag("s", "wrongtype")),
        from("key record of another kind", d).signed(as_told("r2", d).tag("s", "notkey")),
        from("key record with odd white space", d).signed(as_told("r2", d).tag("s", "odd")),
        from("key in test mode", d).signed(as_told("r2", d).tag("s", "testing")),
        from("key in test mode, body changed", d)
            .signed(as_told("r2", d).tag("s", "testing"))
            .then(|m| replace(m, "on fire.", "all right.")),
        from("key for TLS reports only", d).signed(as_told("r2", d).tag("s", "tlsrpt")),
        from("key for SHA-1 only", d).signed(as_told("r2", d).tag("s", "sha1only")),
        from("i= below d=", d).signed(as_told("r2", d).tag("i", "@mail.dkim.example")),
        from("i= below d= where the key says t=s", d)
            .signed(as_told("r2", d).tag("s", "strict").tag("i", "@mail.dkim.example")),
        from("i= equal to d= where the key says t=s", d)
            .signed(as_told("r2", d).tag("s", "strict").tag("i", "ann@dkim.example")),
        from("i= outside d=", d).signed(as_told("r2", d).tag("i", "@notdkim.example")),
        from("l= with nothing after it", d).signed(dkimpy("r2", d).tag("l", "all")),
        from("l= with something after it", d)
            .signed(dkimpy("r2", d).tag("l", "all"))
            .then(|m| [m, b"and more\r\n".to_vec()].concat()),
        from("l=0", d).signed(as_told("r2", d).tag("l", "0")),
        from("1024-bit key", d).signed(dkimpy("r1", d)),
        from("512-bit key", d).signed(as_told("r05", d)),
        from("rsa-sha1", d).signed(as_told("r2", d).algorithm("rsa-sha1")),
        from("From not signed", d).signed(as_told("r2", d).headers(&["To", "Subject"])),
        from("no h=", d).signed(as_told("r2", d).headers(&[])),
        from("no v=", d).signed(as_told("r2", d).without("v")),
        from("v=2", d).signed(as_told("r2", d).tag("v", "2")),
        from("d= twice", d).signed(as_told("r2", "nospf.example").again("d", d)),
        from("q= unknown", d).signed(as_told("r2", d).tag("q", "carrier/pigeon")),
        from("unknown tags", d).signed(as_told("r2", d).tag("zz", "top")),
        from("third-party permission asked for and not there", d).signed(as_told("r2", d).tag("atps", d)),
        from("field cut off", d)
            .then(|m| [b"DKIM-Signature: v=1; a=rsa-sha256; d=dkim.example\r\n".to_vec(), m].concat()),
        from("key's server answers SERVFAIL", d).signed(as_told("r2", "servfail.example")),
        from("key's server is down", d).signed(as_told("r2", "down.example")),
        from("one key's server answers SERVFAIL, the other signature is good", d)
            .signed(as_told("r2", "servfail.example"))
            .signed(ours("r2", d)),
        from("two keys' servers are down, the third signature is good", d)
            .signed(as_told("r2", "down.example"))
            .signed(as_told("r2", "also.down.example"))
            .signed(ours("r2", d)),
        from("not signed", d),
    ]
}

fn spf_cases() -> Vec<Draft> {
    vec![
        spf("ip4", "ip4.example"),
        spf("ip4, another client", "ip4.example").by("203.0.113.9", "ann@ip4.example"),
        spf("ip4, IPv4-mapped client", "ip4.example").by("::ffff:192.0.2.10", "ann@ip4.example"),
        spf("ip6", "ip6.example").by("2001:db8::25", "ann@ip6.example"),
        spf("ip6, another client", "ip6.example").by("2001:dead::25", "ann@ip6.example"),
        spf("ip6 and an IPv4 client", "ip6.example"),
        spf("a", "a.example"),
        spf("a with AAAA", "a.example").by("2001:db8::25", "ann@a.example"),
        spf("a with prefix length", "prefix.example").by("192.0.2.77", "ann@prefix.example"),
        spf("mx", "mx.example"),
        spf("ptr", "ptr.example").by("192.0.2.30", "ann@ptr.example"),
        spf("include", "inc.example"),
        spf("include that does not match", "inc.example").by("203.0.113.9", "ann@inc.example"),
        spf("include of an include", "incinc.example"),
        spf("?include of an include", "neutralinc.example"),
        spf("-include of an include", "failinc.example"),
        spf("~include below an include", "softinc.example"),
        spf("?include after a match", "matchfirst.example"),
        spf("redirect", "redir.example"),
        spf("redirect to nothing", "redirnone.example"),
        spf("redirect of an included record", "incredir.example"),
        spf("exists with macros", "exists.example"),
        spf("exists by local part", "macro.example"),
        spf("exists by local part, another one", "macro.example").by("192.0.2.10", "bob@macro.example"),
        spf("softfail", "soft.example"),
        spf("neutral", "neutral.example"),
        spf("no mechanism matches", "nomatch.example"),
        spf("no record", "nospf.example"),
        spf("no such domain", "gone.example"),
        spf("TXT records that are not SPF", "other.example"),
        spf("syntax error in an address", "badip.example"),
        spf("unknown mechanism", "badmech.example"),
        spf("syntax error after the match", "badlater.example"),
        spf("two SPF records", "twospf.example"),
        spf("ten look-ups", "ten.example"),
        spf("eleven look-ups", "eleven.example"),
        spf("include of nothing", "incnone.example"),
        spf("include of itself", "loop.example"),
        spf("two void look-ups", "void2.example"),
        spf("three void look-ups", "void3.example"),
        spf("more than ten MX hosts", "manymx.example"),
        spf("explanation", "exp.example"),
        spf("record of several strings", "long.example"),
        spf("upper case", "upper.example"),
        spf("include of a server that answers SERVFAIL", "incservfail.example"),
        spf("a of a server that answers SERVFAIL", "aservfail.example"),
        spf("SERVFAIL", "servfail.example"),
        spf("server down", "down.example"),
        spf("null sender, HELO passes", "a.example").by("192.0.2.10", "").helo("helo.example"),
        spf("null sender, HELO fails", "a.example").by("203.0.113.9", "").helo("helo.example"),
        spf("null sender, HELO is a literal", "a.example").by("192.0.2.10", "").helo("[192.0.2.10]"),
        spf("null sender, HELO has one label", "a.example").by("192.0.2.10", "").helo("localhost"),
        spf("quoted local part", "ip4.example").by("192.0.2.10", "\"a@b\"@ip4.example"),
        // The same domain after somebody else's record has named it in another role.
        spf("domain named by another's exp=", "victim.example"),
        spf("unknown modifier", "modifier.example"),
        spf("local macro of a null sender", "helomacro.example").by("192.0.2.10", "").helo("helomacro.example"),
        spf("name of the client in a macro", "pmacro.example").by("192.0.2.30", "ann@pmacro.example"),
        spf("sender's domain in a redirect", "oredir.example"),
    ]
}

fn dmarc() -> Vec<Draft> {
    let both = "both.example";
    let other = ("203.0.113.9", "bounce@nospf.example");
    vec![
        spf("aligned by SPF and DKIM", both).signed(ours("r2", both)),
        spf("aligned by SPF only", both),
        spf("aligned by DKIM only", both).by(other.0, other.1).signed(ours("r2", both)),
        spf("neither", both).by(other.0, other.1),
        spf("SPF passes for another domain", both).by("192.0.2.10", "ann@ip4.example"),
        spf("DKIM passes for another domain", both).by(other.0, other.1).signed(ours("r2", "dkim.example")),
        spf("SPF aligned in relaxed mode", "news.both.example").by("192.0.2.10", "ann@both.example"),
        spf("DKIM aligned in relaxed mode", "news.both.example").by(other.0, other.1).signed(ours("r2", both)),
        spf("siblings below one organisational domain", "news.both.example")
            .by(other.0, other.1)
            .signed(ours("r2", "mail.both.example")),
        spf("strict DKIM, exact", "strict.example").by(other.0, other.1).signed(ours("r2", "strict.example")),
        spf("strict DKIM, subdomain", "strict.example").by(other.0, other.1).signed(ours("r2", "mail.strict.example")),
        spf("strict SPF, subdomain", "strict.example").by("192.0.2.10", "ann@mail.strict.example"),
        spf("no record, nothing aligned", "nodmarc.example").by(other.0, other.1),
        spf("no record, aligned", "nodmarc.example").signed(ours("r2", "nodmarc.example")),
        spf("p=none", "pnone.example").by(other.0, other.1),
        spf("p=quarantine", "pquarantine.example").by(other.0, other.1),
        spf("sp=", "sub.sp.example").by(other.0, other.1),
        spf("sp= is not for the domain itself", "sp.example").by(other.0, other.1),
        spf("np= of a name that does not exist", "ghost.np.example").by(other.0, other.1),
        spf("np= of a name that exists", "real.np.example").by(other.0, other.1),
        spf("record of the organisational domain", "a.b.both.example").by(other.0, other.1),
        spf("pct=0", "pct.example").by(other.0, other.1),
        spf("t=y", "tyes.example").by(other.0, other.1),
        spf("unknown policy", "badp.example").by(other.0, other.1),
        spf("unknown alignment mode, policy reject", "badadkim.example").by(other.0, other.1),
        spf("no policy but rua", "onlyrua.example").by(other.0, other.1),
        spf("version not first", "versionlast.example").by(other.0, other.1),
        spf("odd white space in the record", "oddspace.example").by(other.0, other.1),
        spf("two DMARC records", "twodmarc.example").by(other.0, other.1),
        spf("a record beside other TXT", "mixed.example").by(other.0, other.1),
        spf("record only below the organisational domain", "mail.subonly.example")
            .by("192.0.2.10", "ann@else.subonly.example"),
        spf("psd=n below the organisational domain", "dept.psdn.example").by("192.0.2.10", "ann@psdn.example"),
        spf("signed by the top-level domain", both).by(other.0, other.1).signed(ours("r2", "example")),
        spf("record's server answers SERVFAIL", "servfail.example").by(other.0, other.1),
        spf("record's server is down", "down.example").by(other.0, other.1),
        spf("SPF temperror where the policy is reject", "tempspf.example"),
        spf("DKIM temperror where the policy is reject", both)
            .by(other.0, other.1)
            .signed(as_told("r2", both).tag("s", "servfail")),
        author("two From fields", "From: Ann <ann@both.example>\r\nFrom: Eve <eve@evil.example>\r\n", both)
            .by("192.0.2.10", "ann@both.example"),
        author("two From fields of one domain", "From: Ann <ann@both.example>\r\nFrom: <eve@both.example>\r\n", both)
            .by("192.0.2.10", "ann@both.example"),
        author("no From field", "X-From: ann@both.example\r\n", both).by("192.0.2.10", "ann@both.example"),
        author("From of two domains", "From: Ann <ann@both.example>, Eve <eve@evil.example>\r\n", both)
            .by("192.0.2.10", "ann@both.example"),
        author("From of two addresses of one domain", "From: Ann <ann@both.example>, Eve <eve@both.example>\r\n", both)
            .by("192.0.2.10", "ann@both.example"),
        author("From in upper case", "FROM: Ann <ANN@Both.EXAMPLE>\r\n", both).by("192.0.2.10", "ann@both.example"),
        author("address in the quoted display name", "From: \"ann@both.example\" <eve@evil.example>\r\n", both)
            .by("192.0.2.10", "eve@evil.example"),
        author("address in a comment", "From: (ann@both.example) eve@evil.example (or not)\r\n", both)
            .by("192.0.2.10", "eve@evil.example"),
        author("address in the bare display name", "From: ann@both.example <eve@evil.example>\r\n", both)
            .by("192.0.2.10", "eve@evil.example"),
        author("address twice, once as display name", "From: ann@both.example <ann@both.example>\r\n", both)
            .by("192.0.2.10", "ann@both.example"),
        author("source route", "From: <@both.example:eve@evil.example>\r\n", both).by("192.0.2.10", "eve@evil.example"),
        author("two @", "From: <ann@both.example@ip4.example>\r\n", both).by("192.0.2.10", "eve@evil.example"),
        author("two angle addresses", "From: <ann@both.example> <eve@evil.example>\r\n", both)
            .by("192.0.2.10", "eve@evil.example"),
        author("group", "From: Friends: ann@both.example;\r\n", both).by("192.0.2.10", "ann@both.example"),
        author("encoded address", "From: =?utf-8?B?YW5uQGJvdGguZXhhbXBsZQ==?=, <eve@evil.example>\r\n", both)
            .by("192.0.2.10", "eve@evil.example"),
        author("NUL in From", "From: ann@both.example\0<eve@evil.example>\r\n", both)
            .by("192.0.2.10", "eve@evil.example"),
        author("international domain", "From: Ann <ann@xn--bcher-kva.example>\r\n", both)
            .by("192.0.2.10", "ann@xn--bcher-kva.example"),
        author(
            "field named F r o m beside From",
            "F r o m: <eve@evil.example>\r\nFrom: Ann <ann@both.example>\r\n",
            both,
        )
        .by("192.0.2.10", "eve@evil.example"),
        author("null sender, HELO aligned", "From: MAILER-DAEMON <mailer-daemon@helo.example>\r\n", both)
            .by("192.0.2.10", "")
            .helo("helo.example"),
        author("null sender, HELO not aligned", "From: Ann <ann@both.example>\r\n", both)
            .by("192.0.2.10", "")
            .helo("helo.example"),
    ]
}
