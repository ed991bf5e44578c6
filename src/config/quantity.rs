//! Durations and sizes with their units: `30s`, `5m`, `2h`, `7d`; `64KiB`, `50MiB`, `1GiB`.

use std::time::Duration;

/// Reads a duration: a whole number and `s`, `m`, `h` or `d`.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let seconds = scaled(text, &[("s", 1), ("m", 60), ("h", 3_600), ("d", 86_400)])?;
    Some(Duration::from_secs(seconds))
}

/// Reads a number of octets: a whole number and `KiB`, `MiB` or `GiB`.
pub(super) fn octets(text: &str) -> Option<u64> {
    scaled(text, &[("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)])
}

/// Writes a duration as [`duration`] reads it.
pub(super) fn write_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    [("d", 86_400), ("h", 3_600), ("m", 60)]
        .into_iter()
        .find(|&(_, scale)| seconds >= scale && seconds.is_multiple_of(scale))
        .map_or_else(|| format!("{seconds}s"), |(unit, scale)| format!("{}{unit}", seconds / scale))
}

/// Writes octets as [`octets`] reads them, rounded down to KiB.
pub(super) fn write_octets(octets: u64) -> String {
    [("GiB", 1 << 30), ("MiB", 1 << 20)]
        .into_iter()
        .find(|&(_, scale)| octets >= scale && octets.is_multiple_of(scale))
        .map_or_else(|| format!("{}KiB", octets >> 10), |(unit, scale)| format!("{}{unit}", octets / scale))
}

fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    units.iter().find_map(|(unit, scale)| {
        let number: u64 = text.strip_suffix(unit)?.trim_end().parse().ok()?;
        number.checked_mul(*scale)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_they_are_written() {
        for text in ["30s", "5m", "2h", "7d", "90s"] {
            assert_eq!(duration(text).map(write_duration).as_deref(), Some(text));
        }
        for text in ["64KiB", "50MiB", "1GiB", "1025KiB"] {
            assert_eq!(octets(text).map(write_octets).as_deref(), Some(text));
        }
        for text in ["", "5", "5 weeks", "-5s", "99999999999999999999d", "184467440737095516d"] {
            assert_eq!(duration(text), None, "{text}");
        }
        assert_eq!(octets("50MB"), None);
    }
}
