//! `make soak`: 200,000 messages; ends with 0 only if memory and descriptors stay flat.

use std::process::ExitCode;

/// Octets of memory that a message may leave behind (the allocator's noise): 200,000 messages would make 6 MiB.
const OCTETS_MAX: f64 = 32.0;
/// Descriptors that a thousand messages may leave behind.
const DESCRIPTORS_MAX: f64 = 0.05;

fn main() -> ExitCode {
    let messages = std::env::var("SOAK_MESSAGES").map_or(Ok(200_000), |text| text.parse());
    let Ok(messages) = messages else {
        eprintln!("soak: SOAK_MESSAGES is no number");
        return ExitCode::FAILURE;
    };
    let soak = chaos::soak(messages);
    print!("{soak}");
    let flat = soak.octets_per_message() <= OCTETS_MAX && soak.descriptors_per_thousand() <= DESCRIPTORS_MAX;
    if flat { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
