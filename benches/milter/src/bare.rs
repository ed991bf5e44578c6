//! What a signature costs by itself: `openssl speed`, on one core.

use std::process::Command;

/// Milliseconds of CPU time for one RSA-2048 signature by OpenSSL, measured for `seconds`.
///
/// # Panics
/// When it cannot be run or read.
pub fn rsa2048(seconds: u32) -> f64 {
    let mut command = Command::new("openssl");
    command.args(["speed", "-mr", "-seconds", &seconds.to_string(), "rsa2048"]);
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}; run tests/peers/install.sh"));
    let text = String::from_utf8_lossy(&output.stdout);
    // `+F2:number:bits:signatures:verifications`, both for each second of CPU time.
    let line = text.lines().find_map(|line| line.strip_prefix("+F2:"));
    let rate = line.and_then(|line| line.split(':').nth(2)).and_then(|rate| rate.parse::<f64>().ok());
    1000.0 / rate.unwrap_or_else(|| panic!("{command:?} printed {text}"))
}
