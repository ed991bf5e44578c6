//! RT's own rt-mailgate through our pipe, and our own form beside it: RT must see the same from both.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use support::{DeliverySite, HttpAnswer, Reply, TicketHttp, rt_mailgate};

use super::MESSAGE;

/// A copy that the daemon's user can reach, wherever the original is.
fn copy(folder: &Path) {
    let to = folder.join("rt-mailgate");
    fs::copy(rt_mailgate(), &to).unwrap();
    fs::set_permissions(&to, PermissionsExt::from_mode(0o755)).unwrap();
}

/// Both ways into one RT.
struct Both {
    pipe: DeliverySite,
    post: DeliverySite,
}

impl Both {
    fn into(url: &str, queue: &str) -> Self {
        let pipe = format!(
            "preset = \"rt\"\ndeadline = \"60s\"\n\
             command = [\"FOLDER/rt-mailgate\", \"--url\", \"{url}\", \"--queue\", \"{queue}\", \"--action\", \"comment\"]"
        );
        let post =
            format!("preset = \"rt\"\nurl = \"{url}\"\nqueue = \"{queue}\"\naction = \"comment\"\ndeadline = \"60s\"");
        Self { pipe: DeliverySite::prepared(&pipe, None, copy), post: DeliverySite::start(&post, None) }
    }

    fn send(&self, message: &[u8]) -> [Reply; 2] {
        [&self.pipe, &self.post].map(|site| site.send(&["support@acme.example"], message).remove(0))
    }
}

#[test]
fn rt_sees_the_same_fields_and_octets_from_rt_mailgate_and_from_us() {
    let rt = TicketHttp::plain(HttpAnswer::Rt);
    let both = Both::into(&rt.url(), "Größe & Co");
    let replies = both.send(MESSAGE);
    assert_eq!(replies.clone().map(|reply| reply.code), [250, 250], "{replies:?}");
    let [theirs, ours] = rt.requests().try_into().unwrap();
    assert_eq!((&theirs.method, &theirs.target), (&ours.method, &ours.target));
    assert_eq!(theirs.form().keys().collect::<Vec<_>>(), ["action", "message", "queue"]);
    assert_eq!(theirs.form(), ours.form());
    for request in [&theirs, &ours] {
        assert!(request.header("content-type").starts_with("multipart/form-data; boundary="));
    }
}

#[test]
fn what_rt_says_comes_to_the_same_by_both_ways_but_for_what_rt_mailgate_does_not_tell() {
    let rt = TicketHttp::plain(HttpAnswer::Rt);
    let missing = Both::into(&rt.url(), "Missing").send(MESSAGE);
    assert!(missing[0].text.starts_with("4.3.0 rt: exit status 75"), "{missing:?}");
    assert!(missing[1].text.contains("temporary failure - RT couldn't find the queue"), "{missing:?}");
    let both = Both::into(&rt.url(), "General");
    rt.answer(HttpAnswer::Say(500, "", "<html>Internal error</html>"));
    assert_eq!(both.send(MESSAGE).map(|reply| reply.code), [451, 451]);
    rt.answer(HttpAnswer::Say(200, "Content-Type: text/html\r\n", "<html>Login</html>"));
    assert_eq!(both.send(MESSAGE).map(|reply| reply.code), [451, 451]);
    rt.answer(HttpAnswer::Rt);
    // RT has refused it: rt-mailgate ends with 0 all the same, and the message is gone.
    let looped = [b"X-RT-Loop-Prevention: acme\r\n", MESSAGE].concat();
    let replies = both.send(&looped);
    assert_eq!(replies.clone().map(|reply| reply.code), [250, 451], "{replies:?}");
    assert!(replies[1].text.starts_with("4.7.1 rt: HTTP 200: not ok - "), "{replies:?}");
}

#[test]
fn an_rt_that_is_down_defers_by_both_ways() {
    let replies = Both::into(&format!("http://127.0.0.1:{}", support::free_port()), "General").send(MESSAGE);
    assert!(replies[0].text.starts_with("4.3.0 rt: exit status 75"), "{replies:?}");
    assert!(replies[1].text.starts_with("4.4.1 rt: 127.0.0.1: cannot connect"), "{replies:?}");
}
