//! The world around deskmilter, real: a private Postfix, a private Sendmail, a private Exim, a name server, mail clients and LMTP sinks,
//! and deskmilter's own programs as processes.
//!
//! Everything lives in a temporary folder, listens on loopback at ports of its own, so that any number of tests run side
//! by side, ends when its value is dropped (also by a panic, also when the test is killed), and waits with a limit:
//! a failure says what was waited for and shows the end of the log that explains it. The programs come from
//! `tests/peers/install.sh`.

mod circle;
mod company;
mod daemon;
mod delivery_site;
mod desk_site;
mod dovecot;
mod dovecot_submission;
pub mod endpoint;
mod exim;
mod exim_site;
mod lmtp_client;
mod lmtp_sink;
mod message;
mod metrics;
mod milter_client;
mod name_server;
mod outbound_site;
mod ports;
mod postfix;
mod postgres;
mod private_key;
mod process;
mod sasl_client;
mod sendmail;
mod signer;
mod site;
mod smtp;
mod smtp_sink;
mod submission;
mod ticket_http;
mod tls_identity;
mod verifiers;

pub use circle::{COMPANY, Circle, circle_records};
pub use company::{Company, Mta};
pub use daemon::{Daemon, Ran, SandboxEndpoint, Ticket, deskmilter};
pub use delivery_site::{DeliverySite, rt_mailgate};
pub use desk_site::{CREDENTIALS, DeskSite};
pub use dovecot::Dovecot;
pub use dovecot_submission::DovecotSubmission;
pub use exim::{PrivateExim, exim_program};
pub use exim_site::{EximSite, EximTerms, PreparedExim};
pub use lmtp_client::LmtpClient;
pub use lmtp_sink::{LmtpSink, Transaction};
pub use message::{Message, fields, received_as_sent};
pub use metrics::{Numbers, http_get, http_get_unix, promtool};
pub use milter_client::{MilterClient, Verdict as MilterVerdict};
pub use name_server::{NameServer, Zone};
pub use outbound_site::{
    BILLING_LOGIN, EMPLOYEE_LOGIN, Filter, OutboundSite, PreparedSite, SUPPORT_LOGIN, Terms, notification,
};
pub use ports::{free_address, free_port};
pub use postfix::{Mailbox, PrivatePostfix, Queued, postfix_program, write_settled};
pub use postgres::PrivatePostgres;
pub use private_key::PrivateKey;
pub use process::{PATIENCE, Process, descriptors, folder, own_memory, tail, wait_until, wait_within};
pub use sasl_client::{SaslClient, SaslReply};
pub use sendmail::PrivateSendmail;
pub use signer::Signer;
pub use site::Site;
pub use smtp::{Client, Reply, SmtpSession};
pub use smtp_sink::{ContentFilter, DISCLAIMER, SmtpSink};
pub use submission::Submission;
pub use ticket_http::{HttpAnswer, HttpRequest, TICKET_SECRET, TICKET_SECRET_BASE64, TicketHttp};
pub use tls_identity::TlsIdentity;
pub use verifiers::{Signature, Verdicts};
