//! sendmail's arguments, as programs that send mail write them: options and recipients in any order, values in the same word
//! or in the next, several flags in one word, until `--`. The list is that of Postfix's sendmail(1).

use std::ffi::OsString;
use std::path::PathBuf;

use super::outcome::{EX_USAGE, Failure};

/// Options with a value.
const WITH_VALUE: &str = "ABCFLNORVXbefhopr";
/// Options without one.
const FLAGS: &str = "GUimntvcsx";

/// What is to be done, and how.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Arguments {
    pub(super) task: Task,
    /// `-C`
    pub(super) configuration: Option<PathBuf>,
    /// `-f` or `-r`; empty is the null sender.
    pub(super) sender: Option<String>,
    /// `-F`
    pub(super) full_name: Option<String>,
    /// `-t`
    pub(super) reads_recipients: bool,
    /// `-i` or `-oi`
    pub(super) ignores_dots: bool,
    /// `-v`
    pub(super) is_verbose: bool,
    /// The rest: each an address or a list of them.
    pub(super) recipients: Vec<String>,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) enum Task {
    #[default]
    Submit,
    /// `-q`: there is no queue to be run.
    Nothing,
}

impl Arguments {
    /// Reads the arguments after the program's name.
    ///
    /// # Errors
    /// What cannot be done here, or makes no sense.
    pub(super) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, Failure> {
        let mut parsed = Self::default();
        let mut words = arguments.into_iter().map(|word| {
            let text = word.into_string();
            text.map_err(|word| usage(format!("{} is not UTF-8", word.to_string_lossy())))
        });
        while let Some(word) = words.next().transpose()? {
            if word == "--" {
                for word in words {
                    parsed.recipients.push(word?);
                }
                return Ok(parsed);
            }
            let Some(mut letters) = word.strip_prefix('-').filter(|letters| !letters.is_empty()) else {
                parsed.recipients.push(word);
                continue;
            };
            while let Some(letter) = letters.chars().next() {
                letters = letters.get(letter.len_utf8()..).unwrap_or_default();
                if letter == 'q' || letter == 'd' {
                    // Their value stands in the same word or is left out.
                    parsed.task = if letter == 'q' { Task::Nothing } else { parsed.task };
                    break;
                }
                if FLAGS.contains(letter) {
                    parsed.flag(letter);
                } else if WITH_VALUE.contains(letter) {
                    let value = match letters {
                        "" => words.next().transpose()?.ok_or_else(|| usage(format!("-{letter} needs a value")))?,
                        value => value.to_owned(),
                    };
                    parsed.value(letter, value)?;
                    break;
                } else {
                    return Err(usage(format!("-{letter} is no option of sendmail that is known here")));
                }
            }
        }
        Ok(parsed)
    }

    fn flag(&mut self, letter: char) {
        match letter {
            't' => self.reads_recipients = true,
            'i' => self.ignores_dots = true,
            'v' => self.is_verbose = true,
            // -G gateway, -U initial submission, -m me too, -n no aliases, and old ones: nothing to do for any of them.
            _ => {}
        }
    }

    fn value(&mut self, letter: char, value: String) -> Result<(), Failure> {
        match letter {
            'C' => self.configuration = Some(value.into()),
            'f' | 'r' => self.sender = Some(value),
            'F' => self.full_name = Some(value),
            'o' if value == "i" => self.ignores_dots = true,
            'b' => match value.as_str() {
                "m" => {}
                "p" => return Err(usage("-bp: there is no queue; what was not taken is still the caller's")),
                "i" => return Err(usage("-bi: there are no aliases")),
                "s" => {
                    return Err(usage(
                        "-bs: SMTP is not spoken here; hand over a message, or use LMTP on the daemon's socket",
                    ));
                }
                other => {
                    return Err(usage(format!(
                        "-b{other} is not available; a message is submitted with -bm, the default"
                    )));
                }
            },
            // -B body type: found out from the message. -N, -R, -V: no delivery reports on success. -O, -o, -e: errors are told
            // by exit code and on standard error, always. -A, -L, -X, -h, -p: nothing to do.
            _ => {}
        }
        Ok(())
    }
}

fn usage(text: impl Into<String>) -> Failure {
    Failure::new(EX_USAGE, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, Failure> {
        Arguments::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn options_are_read_as_programs_write_them() {
        for (line, sender, recipients, flags) in [
            ("-t -oi -f support@acme.example", Some("support@acme.example"), &[][..], (true, true)),
            (
                "-i -f support@acme.example -- a@b.example",
                Some("support@acme.example"),
                &["a@b.example"],
                (false, true),
            ),
            ("-t -i", None, &[], (true, true)),
            ("-ti -fsupport@acme.example", Some("support@acme.example"), &[], (true, true)),
            ("-FCronDaemon -i -B8BITMIME -oem root", None, &["root"], (false, true)),
            ("-oem -oi -f a@b.example -- -odd@c.example", Some("a@b.example"), &["-odd@c.example"], (false, true)),
            (
                "a@b.example -f x@y.example c@d.example",
                Some("x@y.example"),
                &["a@b.example", "c@d.example"],
                (false, false),
            ),
            ("-bm -N never -R hdrs -V id -O DeliveryMode=b -v -G -U a", None, &["a"], (false, false)),
            ("-r x@y.example -o i -e m a", Some("x@y.example"), &["a"], (false, true)),
        ] {
            let parsed = parse(line).unwrap();
            assert_eq!(parsed.sender.as_deref(), sender, "{line}");
            assert_eq!(parsed.recipients, recipients, "{line}");
            assert_eq!((parsed.reads_recipients, parsed.ignores_dots), flags, "{line}");
        }
        let empty = Arguments::parse(["-f", "", "a"].map(OsString::from)).unwrap();
        assert_eq!(empty.sender.as_deref(), Some(""));
        assert_eq!(parse("-q15m").unwrap().task, Task::Nothing);
        for line in ["-bs", "-bp", "-bd", "-bi", "-f", "-Z", "-tZ"] {
            assert_eq!(parse(line).unwrap_err().code, EX_USAGE, "{line}");
        }
    }
}
