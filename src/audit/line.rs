//! A log line apart: when, which program, what.

use std::borrow::Cow;

use time::{Date, Duration, Month, OffsetDateTime, PrimitiveDateTime, Time, UtcOffset};

use super::own::Fields;

/// Our own program's name in a system log.
pub(crate) const OWN: &str = "deskmilter";
/// The levels that our lines on standard error carry.
const LEVELS: [&str; 5] = ["ERROR", "WARN", "INFO", "DEBUG", "TRACE"];
/// The months as syslog has them (RFC 3164 section 4.1.2).
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
/// How far ahead of now a line without a year may be before it is taken for one of last year.
const AHEAD_MAX: Duration = Duration::days(1);

/// What a time in a log leaves open: its year and its zone.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// Now.
    pub now: OffsetDateTime,
    /// The zone's offset at a local time.
    pub zone: fn(PrimitiveDateTime) -> UtcOffset,
}

/// One line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Line<'a> {
    pub(crate) at: OffsetDateTime,
    pub(crate) program: &'a str,
    pub(crate) text: &'a str,
}

impl<'a> Line<'a> {
    /// Reads syslog lines with RFC 3164 and RFC 3339 times, those of journalctl (`short`, `short-iso`), and our own on standard
    /// error. `None` for anything else.
    pub(crate) fn parse(line: &'a str, clock: &Clock) -> Option<Self> {
        let (at, rest) = timestamp(line, clock)?;
        if let Some(text) = after_level(rest) {
            return Some(Self { at, program: OWN, text });
        }
        let (_host, rest) = rest.split_once(' ')?;
        let (tag, text) = rest.trim_start().split_once(": ")?;
        let program = tag.split('[').next()?;
        if program != OWN {
            return Some(Self { at, program, text });
        }
        // Standard error by way of the journal: our own time and level stand before the text.
        let own = timestamp(text, clock).and_then(|(at, rest)| Some((at, after_level(rest)?)));
        let (at, text) = own.unwrap_or((at, text));
        Some(Self { at, program, text })
    }
}

/// A line of ours in one of the other forms (`log.format`) in that of the text; any other line as it is.
pub(crate) fn as_text(line: &str) -> Cow<'_, str> {
    let fields: Vec<(String, String)> = if line.starts_with("{\"time\":") {
        let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line).unwrap_or_default();
        let text = |value: serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        object.into_iter().map(|(key, value)| (key, text(value))).collect()
    } else if line.starts_with("time=") {
        Fields(line).all().map(|(key, value)| (key.to_owned(), value)).collect()
    } else {
        return Cow::Borrowed(line);
    };
    let get = |wanted: &str| fields.iter().find(|(key, _)| key == wanted).map(|(_, value)| value.as_str());
    let (Some(time), Some(level), Some(message)) = (get("time"), get("level"), get("msg")) else {
        return Cow::Borrowed(line);
    };
    let mut text = format!("{time} {} ", level.to_uppercase());
    if let Some(id) = get("queue_id") {
        text.push_str(&format!("{id}: "));
    }
    text.push_str(message);
    for (key, value) in &fields {
        if !matches!(key.as_str(), "time" | "level" | "queue_id" | "msg") {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"");
            text.push_str(&format!(" {key}=\"{value}\""));
        }
    }
    Cow::Owned(text)
}

/// Whether a line is ours on standard error, in whichever form.
pub(crate) fn is_own(line: &str) -> bool {
    let of_text = || line.split_once(' ').and_then(|(_, rest)| after_level(rest)).is_some();
    line.starts_with("{\"time\":") || line.starts_with("time=") || of_text()
}

fn after_level(text: &str) -> Option<&str> {
    let (level, rest) = text.split_once(' ')?;
    LEVELS.contains(&level).then_some(rest)
}

fn timestamp<'a>(line: &'a str, clock: &Clock) -> Option<(OffsetDateTime, &'a str)> {
    if line.starts_with(|c: char| c.is_ascii_digit()) {
        let (word, rest) = line.split_once(' ')?;
        return Some((iso(word, clock)?, rest.trim_start()));
    }
    let (month, rest) = line.split_at_checked(3)?;
    let month = MONTHS.iter().position(|name| *name == month)?;
    let month = Month::try_from(u8::try_from(month + 1).ok()?).ok()?;
    let (day, rest) = rest.trim_start().split_once(' ')?;
    let (of_day, rest) = rest.trim_start().split_once(' ')?;
    let (day, of_day) = (day.parse().ok()?, time_of_day(of_day)?);
    let in_year = |year: i32| {
        let date = PrimitiveDateTime::new(Date::from_calendar_date(year, month, day).ok()?, of_day);
        Some(date.assume_offset((clock.zone)(date)))
    };
    let year = clock.now.year();
    let this_year = in_year(year).filter(|at| *at <= clock.now + AHEAD_MAX);
    Some((this_year.or_else(|| in_year(year - 1))?, rest))
}

/// A time as a person writes it: `2026-11-22`, `2026-11-22 08:00`, `2026-11-22T08:00:00Z`, `2h`, `3d`, `today`, `yesterday`.
///
/// # Errors
/// What may be written instead.
pub fn parse_time(text: &str, clock: &Clock) -> Result<OffsetDateTime, String> {
    let ago = |unit: char, seconds: i64| {
        let count: i64 = text.strip_suffix(unit)?.parse().ok().filter(|count| (0..=100_000).contains(count))?;
        Some(clock.now - Duration::seconds(count.checked_mul(seconds)?))
    };
    let midnight = |date: Date| {
        let at = PrimitiveDateTime::new(date, Time::MIDNIGHT);
        at.assume_offset((clock.zone)(at))
    };
    let now = PrimitiveDateTime::new(clock.now.date(), clock.now.time());
    let today = clock.now.to_offset((clock.zone)(now)).date();
    let found = match text {
        "today" => Some(midnight(today)),
        "yesterday" => today.previous_day().map(midnight),
        _ => None,
    };
    let relative = || ago('m', 60).or_else(|| ago('h', 3_600)).or_else(|| ago('d', 86_400));
    found.or_else(|| iso(&text.replacen(' ', "T", 1), clock)).or_else(relative).ok_or_else(|| {
        "not a time; write 2026-11-22, \"2026-11-22 08:00\", 2026-11-22T08:00:00Z, today, yesterday, 30m, 2h or 3d"
            .to_owned()
    })
}

/// ISO 8601, as far as logs use it; without a zone it is local time.
fn iso(word: &str, clock: &Clock) -> Option<OffsetDateTime> {
    let (date, rest) = match word.split_once('T') {
        Some((date, rest)) => (date, rest),
        None => (word, "00:00"),
    };
    let mut parts = date.splitn(3, '-');
    let year = parts.next().filter(|year| year.len() == 4)?.parse().ok()?;
    let month = Month::try_from(parts.next()?.parse::<u8>().ok()?).ok()?;
    let date = Date::from_calendar_date(year, month, parts.next()?.parse().ok()?).ok()?;
    let end = rest.find(['Z', '+', '-']).unwrap_or(rest.len());
    let (of_day, zone) = rest.split_at_checked(end)?;
    let at = PrimitiveDateTime::new(date, time_of_day(of_day)?);
    let offset = match zone {
        "" => (clock.zone)(at),
        "Z" => UtcOffset::UTC,
        _ => {
            let digits: String = zone.chars().filter(char::is_ascii_digit).collect();
            let (hours, minutes) = digits.split_at_checked(2)?;
            let (hours, minutes): (i8, i8) = (hours.parse().ok()?, minutes.parse().ok()?);
            let west = zone.starts_with('-');
            UtcOffset::from_hms(if west { -hours } else { hours }, if west { -minutes } else { minutes }, 0).ok()?
        }
    };
    Some(at.assume_offset(offset))
}

/// `08:00`, `08:00:00` or with a fraction, which does not matter here.
fn time_of_day(text: &str) -> Option<Time> {
    let whole = text.split(['.', ',']).next()?;
    let mut parts = whole.splitn(3, ':');
    let (hour, minute) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let second = parts.next().map_or(Some(0), |second| second.parse().ok())?;
    // A leap second.
    Time::from_hms(hour, minute, if second == 60 { 59 } else { second }).ok()
}
