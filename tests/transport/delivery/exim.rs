//! A real Exim in front, with the router and the transport of docs/delivery.md.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use support::{Client, DeliverySite, HttpAnswer, Message, PrivateExim, TicketHttp};

/// The two blocks of the guide.
fn guide() -> [String; 2] {
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/delivery.md")).unwrap();
    let blocks = text.split("```\n").filter(|block| block.starts_with("deskmilter_delivery:"));
    blocks.map(str::to_owned).collect::<Vec<_>>().try_into().unwrap()
}

#[test]
fn exim_keeps_what_is_deferred_and_hands_over_with_extensions_and_each_octet() {
    let rt = TicketHttp::plain(HttpAnswer::Say(503, "", ""));
    let lines = format!("preset = \"rt\"\nurl = \"{}\"\nline_ending = \"crlf\"", rt.url());
    let site = DeliverySite::start(&lines, None);
    // The site's sockets are Postfix's group's.
    fs::set_permissions(site.socket().parent().unwrap(), PermissionsExt::from_mode(0o755)).unwrap();
    fs::set_permissions(site.socket(), PermissionsExt::from_mode(0o666)).unwrap();
    let [router, transport] = guide();
    let socket = site.socket().display().to_string();
    let transport = transport.replace("/run/deskmilter/transport/acme.delivery.sock", &socket);
    assert!(transport.contains(&socket), "{transport}");
    let exim = PrivateExim::routing(&router, &transport);
    let message = Message::new("jane@end.example", "support+4711@acme.example", "hello").octets();
    let client = Client::new("192.0.2.10", "mail.end.example");
    let recipients = ["support+4711@acme.example", "billing@acme.example"];
    assert_eq!(exim.submit_as(&client, "jane@end.example", &recipients, &message).code, 250);
    exim.wait_for("the system's words in the log", || exim.log().contains("rt: HTTP 503"));
    assert_eq!(exim.queue().len(), 1, "{}", exim.log());
    rt.answer(HttpAnswer::Rt);
    exim.wait_for_empty_queue();
    let taken = rt.requests().pop().unwrap().form().remove("message").unwrap();
    assert!(taken.ends_with(&message), "{}", String::from_utf8_lossy(&taken));
    let log = site.daemon.log();
    assert!(log.contains("to=<support+4711@acme.example>,<billing@acme.example>"), "{log}");
}
