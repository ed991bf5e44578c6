//! An endpoint that stays down. What each fault comes to is in the fault matrix.

use std::time::{Duration, Instant};

use super::{STRANGER, SUPPORT, connect, message, site, submit};

#[test]
fn while_an_endpoint_is_down_its_mail_is_put_off_at_rcpt_and_ordinary_mail_flows() {
    let mut site = site("", "");
    site.desk.stop();
    let message = message("while it is down");
    for _ in 0..3 {
        let reply = submit(&site, &[SUPPORT], &message);
        assert!(reply.code == 451 && reply.text.contains("4.4.1"), "{reply}");
    }
    let mut session = connect(site.postfix.address());
    session.expect(250, &format!("MAIL FROM:<{STRANGER}>"));
    let reply = session.expect(451, &format!("RCPT TO:<{SUPPORT}>"));
    assert!(reply.text.starts_with("4.4.1 "), "{reply}");
    session.expect(250, &format!("RCPT TO:<{}>", super::SALES));
    session.expect(354, "DATA");
    assert_eq!(session.data(&message).code, 250);

    site.desk.resume();
    let since = Instant::now();
    loop {
        if submit(&site, &[SUPPORT], &message).code == 250 {
            break;
        }
        assert!(since.elapsed() < Duration::from_secs(30), "{}", site.daemon.log());
        std::thread::sleep(Duration::from_millis(500));
    }
    assert_eq!(site.desk.tickets().len(), 1);
    let log = site.daemon.log();
    assert_eq!((log.matches("endpoint is down").count(), log.matches("endpoint is up again").count()), (1, 1), "{log}");
}
