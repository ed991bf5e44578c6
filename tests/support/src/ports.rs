//! Ports nobody else uses.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};

/// A loopback address and port for a service that is started by another process, free for TCP and UDP.
///
/// The address is one of 127.0.0.0/8 that depends on the process id and a counter. So nothing can take the port between
/// now and the service's start: neither another test's service nor an outgoing connection, which comes from 127.0.0.1.
pub fn free_address() -> SocketAddr {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let n = std::process::id().wrapping_mul(64).wrapping_add(COUNTER.fetch_add(1, Ordering::Relaxed));
    let [_, high, middle, low] = n.to_be_bytes();
    free_on(Ipv4Addr::new(127, high.clamp(1, 254), middle, low.clamp(1, 254)))
}

/// A free port on 127.0.0.1, for what must be there. It is below those that Linux gives to outgoing connections and to
/// listeners that take any (32768 and up), so that it stays free while the service behind it is stopped and started.
pub fn free_port() -> u16 {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    for _ in 0..1_000 {
        let n = std::process::id().wrapping_mul(97).wrapping_add(COUNTER.fetch_add(1, Ordering::Relaxed));
        let port = 12_000 + u16::try_from(n % 20_000).unwrap_or(0);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no port from 12000 to 31999 is free on 127.0.0.1");
}

fn free_on(ip: Ipv4Addr) -> SocketAddr {
    for _ in 0..100 {
        let tcp = TcpListener::bind((ip, 0)).expect("a free loopback port");
        let address = tcp.local_addr().expect("the address just bound");
        if UdpSocket::bind(address).is_ok() {
            return SocketAddr::new(IpAddr::V4(ip), address.port());
        }
    }
    panic!("no port of {ip} is free for both TCP and UDP");
}
