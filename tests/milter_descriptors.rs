//! Running out of file descriptors. A process of its own: the limit holds for all of it.

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::sync::Arc;
    use std::time::Duration;

    use arc_swap::ArcSwap;
    use deskmilter::attach::milter::{Listener, Service, serve};
    use deskmilter::config::Limits;
    use deskmilter::mail::{Connection, Envelope, Mail, Spool, Verdict};
    use deskmilter::pipeline::Judge;
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpSocket};
    use tokio::time::{sleep, timeout};
    use tokio_util::sync::CancellationToken;
    use tokio_util::task::TaskTracker;

    struct Indifferent;

    impl Judge for Indifferent {
        fn concerns(&self, _connection: &Connection, _envelope: &Envelope) -> bool {
            false
        }

        async fn judge(&self, _mail: &Mail) -> Verdict {
            Verdict::pass()
        }
    }

    #[tokio::test]
    async fn when_descriptors_run_out_a_connection_waits_and_is_served_once_there_are_some() {
        let directory = tempfile::tempdir().unwrap();
        let limits = Limits {
            message_size: 1 << 20,
            header_size: 1 << 20,
            memory: 1 << 20,
            milter_connections: 10,
            transport_connections: 1,
            hops: 50,
            addresses_per_domain: 50,
            domains: 4,
            inline_relays: 20,
        };
        let judge = Arc::new(ArcSwap::from_pointee(Indifferent));
        let service = Arc::new(Service::new(judge, Spool::new(directory.path()), &limits));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(Listener::Tcp(listener), service, CancellationToken::new(), TaskTracker::new()));

        let client = TcpSocket::new_v4().unwrap();
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, 64.min(hard), hard).unwrap();
        let mut hogs = Vec::new();
        while let Ok(file) = File::open("/dev/null") {
            hogs.push(file);
        }
        assert!(!hogs.is_empty());
        let mut client = client.connect(address).await.unwrap();
        client.write_all(b"\0\0\0\x0dO\0\0\0\x06\0\0\x01\xff\0\x1f\xff\xff").await.unwrap();
        let mut answer = [0; 17];
        assert!(timeout(Duration::from_millis(200), client.read(&mut answer)).await.is_err(), "not accepted yet");
        drop(hogs);
        sleep(Duration::from_millis(10)).await;
        timeout(Duration::from_secs(5), client.read_exact(&mut answer)).await.unwrap().unwrap();
        assert_eq!(answer[..5], *b"\0\0\0\x0dO");
    }
}
