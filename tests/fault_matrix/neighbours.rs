//! Faults beside us: a milter after ours, and Postfix itself.

use std::time::Duration;

use support::endpoint::{Action, Script};

use crate::cell::{Cell, Cells, Log, arrives, cells, later, put_off};
use crate::company::Company;
use crate::fault::{Trouble, faults, on};

const TWO_MILTERS: &str = "smtpd_milters = { unix:deskmilter/milter.sock, default_action=tempfail }, \
                           { unix:deskmilter/later.sock, default_action=tempfail }\n";

fn later_milter(refuse: fn(&mut Company)) -> Trouble {
    Trouble {
        main_cf: TWO_MILTERS,
        before: refuse,
        after: |company| company.later.as_ref().unwrap().relent(),
        ..Trouble::default()
    }
}

fn restart(company: &mut Company) {
    company.site.postfix.stop();
    company.site.postfix.resume();
}

faults! {
    later_milter_4xx (transport, inline): "a milter after ours says 4xx",
        later_milter(|company| company.refuse_later(451, "not yet")),
        cells(
            put_off("451 4.7.1 not yet", Log::OfTheMessage("judged decision=tagged")),
            Cell { tickets: 1, ..put_off("451 4.7.1 not yet", Log::Relay("relayed", "250")) },
        )
        => "inline: put ours last; the journal answers for the ticket when the client comes again";
    later_milter_5xx (transport, inline): "a milter after ours says 5xx",
        later_milter(|company| company.refuse_later(550, "never")),
        cells(
            Cell { in_the_end: 0, ..put_off("550 5.7.1 never", Log::OfTheMessage("judged decision=tagged")) },
            Cell { tickets: 1, ..put_off("550 5.7.1 never", Log::Relay("relayed", "250")) },
        )
        => "inline: put ours last, or there are tickets of refused mail";
    postfix_restarted (transport): "Postfix restarted while mail waits",
        Trouble { queued: Some(restart), ..Script { down: true, ..Script::default() }.into() },
        Cells { inline: None, ..later("451 4.4.1 … cannot connect") } => "nothing";
    postfix_restarted_unanswered (transport, inline): "Postfix restarted while the endpoint has the message",
        Trouble { unanswered: Some(restart), ..on("DOT 1", Action::Late(Duration::from_secs(3))) },
        cells(
            Cell { tickets: 2, in_the_end: 2, ..arrives(Log::Relay("relayed", "250")) },
            Cell { reply: None, ..arrives(Log::Relay("relayed", "250")) },
        )
        => "transport: merge the two tickets. Inline: nothing, the journal knows";
}
