//! Random input.

use std::time::Duration;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::daemon::{Act, Daemon, runtime};
use crate::mta::frame;

/// Sends octets and closes: the conversation ends by itself, and whatever it says is whole frames.
async fn anything(octets: Vec<u8>) {
    let daemon = Daemon::new(Act::Pass);
    let (mta, _, conversation) = daemon.converse();
    let (mut from, mut to) = tokio::io::split(mta.stream);
    let reading = tokio::spawn(async move {
        let mut answers = Vec::new();
        let _ = from.read_to_end(&mut answers).await;
        answers
    });
    let _ = to.write_all(&octets).await;
    let _ = to.shutdown().await;
    timeout(Duration::from_secs(10), conversation).await.expect("the conversation ends").expect("no panic");
    let answers = reading.await.unwrap();
    let mut rest = &answers[..];
    while let Some((length, tail)) = rest.split_first_chunk::<4>() {
        rest = tail.get(u32::from_be_bytes(*length) as usize..).expect("a whole frame");
    }
    assert!(rest.is_empty());
}

fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let codes = prop_oneof![
        9 => prop::sample::select(&b"ODCHMRTLNBEUAK"[..]),
        1 => any::<u8>(),
    ];
    let payloads = prop_oneof![
        Just(b"<support@acme.example>\0".to_vec()),
        Just(b"Subject\0 value\n folded\0".to_vec()),
        Just(b"host\x004\x00\x19192.0.2.1\0".to_vec()),
        Just(b"M{auth_authen}\0alice\0".to_vec()),
        Just(Vec::new()),
        prop::collection::vec(any::<u8>(), 0..60),
    ];
    (codes, payloads).prop_map(|(code, payload)| frame(code, &payload))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_octets_never_panic_or_hang(octets in prop::collection::vec(any::<u8>(), 0..400)) {
        runtime().block_on(anything(octets));
    }

    #[test]
    fn random_commands_never_panic_or_hang(
        version in 2u8..8,
        protocol in any::<u32>(),
        frames in prop::collection::vec(any_frame(), 0..60),
    ) {
        let mut octets = frame(b'O', &[&[0, 0, 0, version, 0, 0, 1, 0xff][..], &protocol.to_be_bytes()].concat());
        octets.extend(frames.concat());
        runtime().block_on(anything(octets));
    }
}
