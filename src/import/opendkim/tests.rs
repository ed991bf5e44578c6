use std::path::Path;

use proptest::prelude::*;

use super::*;

const KEYS: &str = "one acme.example:s1:/k/one\ntwo acme.example:s2:/k/two\nthree other.example:s3:/k/three\n\
                    own %:s4:/k/%.pem\ninline acme.example:s5:MIIEvQ\n";

fn import(conf: &str, keys: &str, senders: &str) -> Import {
    let mut read = |path: &Path| match path.to_str() {
        Some("/keys") => Ok(keys.to_owned()),
        Some("/senders") => Ok(senders.to_owned()),
        _ => Err(format!("{}: not there", path.display())),
    };
    Import::read(Settings::parse(conf).unwrap(), &mut read).unwrap()
}

fn selectors(import: &Import, sender: &str) -> Vec<String> {
    import.signing.signatures(sender).unwrap().into_iter().map(|signature| signature.selector).collect()
}

const PLAIN: &str = "KeyTable /keys\nSigningTable file:/senders\n";
const PATTERNS: &str = "KeyTable refile:/keys\nSigningTable refile:/senders\n";

#[test]
fn a_plain_table_is_asked_for_the_address_then_the_host_then_the_domains_above() {
    let senders = "* three\nann@* two\n.example one\nbob@.example two\nann@acme.example one\nacme.example two # x\n";
    let import = import(PLAIN, KEYS, senders);
    for (sender, expected) in [
        ("ann@acme.example", "s1"),
        ("Eve@ACME.example", "s2"),
        ("bob@sub.acme.example", "s2"),
        ("eve@sub.acme.example", "s1"),
        ("ann@elsewhere.test", "s2"),
        ("eve@elsewhere.test", "s3"),
    ] {
        assert_eq!(selectors(&import, sender), [expected], "{sender}");
    }
}

#[test]
fn a_table_of_patterns_is_gone_through_from_the_top() {
    let senders = "ann+*@acme.example two\n*@acme.example one\n*@*.acme.example own\n   *@other.example three\n";
    let import = import(PATTERNS, KEYS, senders);
    for (sender, expected) in [
        ("ann+x@acme.example", vec!["s2"]),
        ("ann@Acme.Example", vec!["s1"]),
        ("eve@sub.acme.example", vec!["s4"]),
        ("eve@acmeXexample", vec![]),
        ("eve@other.example", vec![]),
    ] {
        assert_eq!(selectors(&import, sender), expected, "{sender}");
    }
    assert!(import.problems.iter().any(|problem| problem.contains("line 4")), "{:?}", import.problems);
}

#[test]
fn with_multiple_signatures_every_match_signs() {
    let import =
        import(&format!("{PLAIN}MultipleSignatures yes\n"), KEYS, "acme.example one\nann@acme.example two\n* three\n");
    assert_eq!(selectors(&import, "ann@acme.example"), ["s2", "s1", "s3"]);
}

#[test]
fn a_percent_sign_stands_for_the_senders_domain() {
    let import = import(PLAIN, KEYS, "a.example own\nb.example own\n");
    let signature = import.signing.signatures("x@B.example").unwrap().remove(0);
    assert_eq!((signature.domain.as_str(), signature.key), ("b.example", KeyData::File("/k/b.example.pem".into())));
    let (rules, problems) = import.signing.rules();
    assert_eq!((rules.len(), problems.len()), (2, 0), "{problems:?}");
}

#[test]
fn a_single_key_signs_for_its_domains_and_below_where_that_is_asked() {
    let conf = "Domain a.example, b.example\nSelector s\nKeyFile /k\n";
    let strict = import(conf, "", "");
    assert_eq!(selectors(&strict, "x@b.example"), ["s"]);
    assert!(selectors(&strict, "x@sub.b.example").is_empty());
    let below = import(&format!("{conf}SubDomains yes\n"), "", "");
    assert_eq!(below.signing.signatures("x@sub.b.example").unwrap()[0].domain, "b.example");
}

#[test]
fn what_is_not_taken_over_is_named_and_no_secret_is() {
    let conf = format!("{PLAIN}SignatureTTL 3600\nLDAPBindPassword hunter2\nInternalHosts 192.0.2.0/24, localhost\n");
    let senders =
        "*@acme.example one\nacme.example inline\nnone.example missing\nother.example three:ann@other.example\n";
    let (text, problems) = import(&conf, KEYS, senders).show(&|_| None);
    assert!(problems);
    for part in [
        "line 1: *@acme.example is a pattern in a plain table",
        "its key stands in KeyTable itself",
        "\"missing\", which KeyTable lacks",
        "i=ann@other.example is not written",
        "no sender signs with two",
        "SignatureTTL 3600: no equivalent",
        "signing_networks = [\"192.0.2.0/24\"]",
        "simple/simple",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    assert!(!text.contains("hunter2") && !text.contains("MIIEvQ"), "{text}");
}

#[test]
fn what_is_printed_is_toml_with_each_key_once_in_its_domain() {
    let senders = "acme.example one\n.acme.example one\nann@acme.example two\nother.example three\n";
    let (text, problems) = import(PLAIN, KEYS, senders).show(&|_| None);
    assert!(!problems, "{text}");
    let read: toml::Table = text.parse().unwrap();
    let keys: Vec<(&str, Vec<&str>)> = read["signing"]
        .as_array()
        .unwrap()
        .iter()
        .map(|key| {
            let senders = key["sign_for"].as_array().unwrap().iter().map(|sender| sender.as_str().unwrap()).collect();
            (key["selector"].as_str().unwrap(), senders)
        })
        .collect();
    let expected = [
        ("s2", vec!["ann@acme.example"]),
        ("s1", vec!["*@acme.example", "*@*.acme.example"]),
        ("s3", vec!["*@other.example"]),
    ];
    assert_eq!(keys, expected);
}

#[test]
fn the_order_that_counts_is_kept_where_senders_overlap() {
    let senders =
        "ann@* three\n*@acme.example one\nbob@acme.example two\n*@*.acme.example one\neve@other.example three\n";
    let (text, _) = import(PATTERNS, KEYS, senders).show(&|_| None);
    let read: toml::Table = text.parse().unwrap();
    let order: Vec<&str> =
        read["signing"].as_array().unwrap().iter().map(|entry| entry["selector"].as_str().unwrap()).collect();
    // The second three could join the first one: nobody in between signs for other.example.
    assert_eq!(order, ["s3", "s1", "s2"], "{text}");
    let senders = "ann@acme.example one\n*@acme.example two\n*@acme.* one\n";
    let (text, _) = import(PATTERNS, KEYS, senders).show(&|_| None);
    assert_eq!(text.matches("\n[[signing]]\n").count(), 3, "{text}");
    assert!(text.contains("\n[outbound]\nsign_with = \"first\"\n"), "{text}");
}

#[test]
fn internal_hosts_become_networks_unless_one_is_excepted() {
    let conf = |hosts: &str| format!("{PLAIN}InternalHosts {hosts}\n");
    let show = |hosts: &str| import(&conf(hosts), KEYS, "acme.example one\n").show(&|_| None).0;
    let text = show("127.0.0.1,10.1.2.3,192.0.2.7/24,mail.acme.example,0.0.0.0/0");
    assert!(text.contains("\n[outbound]\nsigning_networks = [\"10.1.2.3/32\", \"192.0.2.0/24\"]\n"), "{text}");
    assert!(text.contains("InternalHosts: mail.acme.example 0.0.0.0/0; OpenDKIM signs"), "{text}");
    let text = show("192.0.2.0/24,!192.0.2.7");
    assert!(!text.contains("[outbound]") && text.contains("InternalHosts: 192.0.2.0/24 !192.0.2.7; "), "{text}");
    assert!(text.contains("InternalHosts lacks 127.0.0.1"), "{text}");
}

#[test]
fn a_verifier_that_signs_nothing_is_a_problem() {
    let (text, problems) = import(&format!("{PLAIN}Mode v\n"), KEYS, "acme.example one\n").show(&|_| None);
    assert!(problems && text.contains("Mode v: OpenDKIM signs nothing"), "{text}");
}

#[test]
fn a_key_that_cannot_be_used_is_a_problem() {
    let (text, problems) =
        import(PLAIN, KEYS, "acme.example one\n").show(&|path| Some(format!("{}: no", path.display())));
    assert!(problems && text.contains("#   key file /k/one: no\n"), "{text}");
}

#[test]
fn settings_are_read_as_opendkim_reads_them() {
    let mut read = |path: &Path| match path.to_str() {
        Some("/a") => Ok("mode s # sign\nInclude /b\n\tSelector\tx y \n".to_owned()),
        Some("/b") => Ok("MODE sv\r\nDomain a.example\n".to_owned()),
        _ => Ok("Include /circle\n".to_owned()),
    };
    let settings = Settings::load(Path::new("/a"), &mut read).unwrap();
    assert_eq!((settings.get("Mode"), settings.get("selector")), (Some("sv"), Some("x y")));
    assert_eq!(settings.iter().count(), 3);
    assert!(Settings::load(Path::new("/circle"), &mut read).unwrap_err().contains("circle"));
    let mut many = |path: &Path| match path.to_str() {
        Some("/5") => Ok(String::new()),
        level => Ok(format!("Include /{}\n", level.map_or(1, |p| p[1..].parse::<u8>().unwrap() + 1)).repeat(40)),
    };
    assert!(Settings::load(Path::new("/1"), &mut many).unwrap_err().contains("too deep"));
    assert!(Settings::parse("Mode\n").unwrap_err().contains("line 1"));
    for (value, expected) in [
        ("file:x", Source::File("x".into())),
        ("/x", Source::File("/x".into())),
        ("REFILE:/x", Source::Patterns("/x".into())),
        ("a,b:c", Source::List("a,b:c".to_owned())),
        ("csl:a=b", Source::List("a=b".to_owned())),
        ("/x.db", Source::Other("db".to_owned())),
        ("dsn:mysql://u:p@h/d", Source::Other("dsn".to_owned())),
    ] {
        assert_eq!(Source::parse(value), expected, "{value}");
    }
}

#[test]
fn a_pattern_that_would_mean_other_senders_here_is_a_problem_and_not_a_rule() {
    use crate::config::SenderPattern;
    let senders = "acme.example one\nann* two\n*acme.example one\nb b@acme.example two\na\"b@acme.example two\n*@acme..example three\n* three\n";
    let import = import(PATTERNS, KEYS, senders);
    let (rules, problems) = import.signing.rules();
    for sender in ["ann@acme.example", "eve@acme.example", "eve@ann.example", "ann@ann.example", "x@y.example"] {
        let address = crate::mail::Address::parse(sender).unwrap();
        for rule in &rules {
            let here = SenderPattern::parse(&rule.senders).unwrap();
            assert_eq!(here.matches(&address), rule.matches(sender), "{} for {sender}", rule.senders);
        }
    }
    for line in [1, 2, 4, 5, 6] {
        assert!(problems.iter().any(|problem| problem.contains(&format!("line {line}:"))), "{line}: {problems:?}");
    }
    assert_eq!(rules.len(), 2, "{rules:?}");
}

#[test]
fn a_private_key_named_by_mistake_is_not_printed() {
    let key = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\n-----END PRIVATE KEY-----\n";
    let error = Settings::load(Path::new("/key.pem"), &mut |_: &Path| Ok(key.to_owned())).unwrap_err();
    assert!(error.contains("/key.pem") && !error.contains("MIIE"), "{error}");
    // Nor one without its first line.
    let error = Settings::parse("Mode s\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\n").unwrap_err();
    assert!(error.contains("line 2") && !error.contains("MIIE"), "{error}");
}

/// A table's name of each form, over few letters, so that they meet.
fn name() -> impl Strategy<Value = String> {
    "\\*|[xy]@\\*|([xy]@\\.?|\\.)?(a|b)(\\.(a|b)){0,2}"
}

proptest! {
    #[test]
    fn the_first_rule_for_a_sender_is_what_opendkim_looks_up(
        names in proptest::collection::vec(name(), 1..12), sender in "[xyz]@(a|b|c)(\\.(a|b)){0,3}", all in any::<bool>()
    ) {
        let keys: String = (0..names.len()).map(|n| format!("k{n} d.example:s{n}:/k{n}\n")).collect();
        let senders: String = names.iter().enumerate().map(|(n, name)| format!("{name} k{n}\n")).collect();
        let conf = format!("{PLAIN}MultipleSignatures {all}\n");
        let import = import(&conf, &keys, &senders);
        let (rules, _) = import.signing.rules();
        let count = if all { usize::MAX } else { 1 };
        let found: Vec<String> = rules.iter().filter(|rule| rule.matches(&sender)).take(count).map(|rule| rule.signature.selector.clone()).collect();
        prop_assert_eq!(selectors(&import, &sender), found, "{}", senders);
    }

    #[test]
    fn no_text_makes_the_readers_panic(text in "([a-z@*.%:/#=,| \\t\\r\\n\\\\?\\[\\x00\\x80-\\xff]{0,12}|KeyTable |refile:|file:|csl:|\\n){0,30}", sender in "\\PC{0,20}") {
        if let Ok(settings) = Settings::parse(&text)
            && let Ok(import) = Import::read(settings, &mut |_: &Path| Ok(text.clone()))
        {
            let _ = (import.signing.signatures(&sender), import.show(&|_| None));
        }
        for kind in ["file:", "refile:"] {
            let settings = Settings::parse(&format!("KeyTable {kind}/k\nSigningTable {kind}/s\nInternalHosts /h\n")).unwrap();
            let import = Import::read(settings, &mut |_: &Path| Ok(text.clone())).unwrap();
            let _ = import.signing.signatures(&sender);
            let (text, _) = import.show(&|_| None);
            prop_assert!(text.parse::<toml::Table>().is_ok(), "{}", text);
        }
    }

    #[test]
    fn tables_of_odd_names_still_give_toml(name in "[^\\s#:]{1,9}", user in "[^\\s#]{1,9}") {
        let import = import(PLAIN, &format!("{name} acme.example:s:/k/{name}\n"), &format!("{user}@acme.example {name}\n"));
        let (text, _) = import.show(&|_| None);
        prop_assert!(text.parse::<toml::Table>().is_ok(), "{}", text);
    }
}
