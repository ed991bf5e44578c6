//! A short run of `make soak`.
#![cfg(test)]

#[test]
fn ten_thousand_messages_leave_neither_memory_nor_descriptors_behind() {
    let soak = chaos::soak(10_000);
    println!("{soak}");
    assert!(soak.octets_per_message() <= 1_024.0, "{soak}");
    assert!(soak.descriptors_per_thousand() <= 1.0, "{soak}");
}
