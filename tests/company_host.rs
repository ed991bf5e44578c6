//! The desk side against real company hosts: Dovecot's submission service with XOAUTH2, and Postfix on both ends.

#![cfg(test)]

use support::{
    BILLING_LOGIN, DeskSite, DovecotSubmission, LmtpClient, PrivatePostfix, SUPPORT_LOGIN, SmtpSink, Submission,
    fields, notification,
};

const COMMAND: &str = "{ address = \"support@acme.example\", username = \"support@acme.example\", \
    token_command = [\"/bin/sh\", \"-c\", \"cat FOLDER/token\"] }, \
    { address = \"billing@acme.example\", token_file = \"billing.token\" }";

#[test]
fn dovecot_takes_tokens_refuses_expired_ones_and_the_message_waits_with_the_caller() {
    let host = DovecotSubmission::start();
    host.set_tokens(&[("first-token", "support@acme.example"), ("billing-token", "billing@acme.example")]);
    let site = DeskSite::start(host.port(), host.identity().authority(), COMMAND, "");
    std::fs::write(site.folder().join("token"), "{\"access_token\":\"first-token\",\"expires_in\":3600}").unwrap();
    site.set_secret("billing.token", "billing-token\n");
    let message = notification().octets();
    let send =
        |sender| LmtpClient::connect(&site.socket()).send(sender, &["jane@customer.example"], &message).remove(0);
    for (sender, count) in [("support@acme.example", 1), ("support@acme.example", 2), ("billing@acme.example", 3)] {
        let reply = send(sender);
        assert_eq!(reply.code, 250, "{reply}\n{}\n{}", site.daemon.log(), host.log());
        let sent = host.sink.wait_for(count, || host.log()).pop().unwrap();
        assert!(sent.mail.contains(sender), "{}", sent.mail);
        // Dovecot adds its own trace above and leaves the rest.
        assert!(sent.message.ends_with(&message), "{}", String::from_utf8_lossy(&sent.message));
        assert_eq!(fields(&sent.message, "X-Mailer"), fields(&message, "X-Mailer"));
    }
    // Expired at the host before its time: the file has a new one, the command's is still the old one.
    host.set_tokens(&[("second-token", "billing@acme.example")]);
    site.set_secret("billing.token", "second-token");
    let renewed = send("billing@acme.example");
    assert_eq!(renewed.code, 250, "{renewed}\n{}", host.log());
    site.set_secret("billing.token", "third-token");
    let refused = send("billing@acme.example");
    assert!(refused.code == 451 && refused.text.contains("4.7.8"), "{refused}");
    assert!(site.daemon.wait_for_log("credential set refused").contains("username=billing@acme.example"));
    assert!(!site.daemon.log().contains("-token"), "{}", site.daemon.log());
    assert_eq!(host.sink.transactions().len(), 4);
}

/// Who may send as whom, as a company's submission service has it.
const SENDERS: &str = "smtpd_sender_login_maps=inline:{ { support@acme.example = zendesk-support }, \
    { billing@acme.example = zendesk-billing } }";

#[test]
fn postfix_beside_the_ticket_system_submits_to_postfix_at_the_company_as_each_sender() {
    let customer = SmtpSink::modern();
    let out = format!(
        "transport_maps = inline:{{ {{ customer.example = smtp:[{}]:{} }} }}",
        customer.address().ip(),
        customer.address().port()
    );
    let mut company = PrivatePostfix::new(&["support@acme.example"], &out, false);
    let options = ["smtpd_milters=", SENDERS, "smtpd_sender_restrictions=reject_sender_login_mismatch"];
    let submission = Submission::add(&company, &[SUPPORT_LOGIN, BILLING_LOGIN], &options.map(str::to_owned));
    company.resume();

    let credential = |name: &str, login: &str| {
        format!("{{ address = \"{name}@acme.example\", username = \"{login}\", password_file = \"{name}.secret\" }}")
    };
    let credentials = [credential("support", SUPPORT_LOGIN), credential("billing", BILLING_LOGIN)].join(", ");
    let address = submission.address();
    let desk =
        DeskSite::at(&address.ip().to_string(), address.port(), submission.identity().authority(), &credentials, "");
    desk.set_secret("support.secret", submission.password(SUPPORT_LOGIN));
    desk.set_secret("billing.secret", "not the password");
    let beside = PrivatePostfix::start(
        &["agent@desk.example"],
        &format!(
            "sender_dependent_default_transport_maps = inline:{{ {{ @acme.example = lmtp:unix:{} }} }}\n\
             lmtp_line_length_limit = 0\ndisable_mime_output_conversion = yes\n",
            desk.socket().display()
        ),
    );
    let logs = || format!("{}\n{}\n{}", beside.log(), desk.daemon.log(), company.log());

    let message = notification().octets();
    assert_eq!(beside.submit("support@acme.example", &["jane@customer.example"], &message).code, 250);
    let sent = customer.wait_for(1, logs).pop().unwrap();
    assert!(sent.mail.contains("support@acme.example"), "{}", sent.mail);
    // The traces of two Postfixes stand above; below them every octet is the ticket system's.
    assert!(sent.message.ends_with(&message), "{}", String::from_utf8_lossy(&sent.message));

    // A wrong password: the message waits beside the ticket system, with the company's words, until the file is right.
    assert_eq!(beside.submit("billing@acme.example", &["jane@customer.example"], &message).code, 250);
    desk.daemon.wait_for_log("credential=zendesk-billing");
    support::wait_until("a deferred message", logs, || {
        beside.queue().iter().any(|queued| queued.recipients.iter().any(|(_, why)| why.contains("4.7.8")))
    });
    desk.set_secret("billing.secret", submission.password(BILLING_LOGIN));
    let sent = customer.wait_for(2, logs).pop().unwrap();
    assert!(sent.mail.contains("billing@acme.example"), "{}", sent.mail);
    assert_eq!(customer.transactions().len(), 2);
}
