//! Mail into ticket systems that take none by SMTP: by HTTP against an intake that checks what the real ones check, through
//! programs, RT's own among them, and with a real Postfix or Exim in front.

mod exim;
mod http;
mod pipe;
mod postfix;
mod rt;

/// A message that shows each change of an octet.
const MESSAGE: &[u8] = b"Received: by mx.acme.example (Postfix) id 4XyzAb1kQ9z1; Sun, 22 Nov 2026 08:00:00 +0000\r\n\
    X-Deskmilter-Tags: system_authenticated_email_ticket\r\nfrom:  Jane  <jane@end.example>\r\nTo: support@acme.example\r\n\
    Message-ID: <4711@end.example>\r\nSubject: =?utf-8?q?=C3=BC?=\r\n\tfolded\r\n\r\nGr\xc3\xbc\xc3\x9fe \xff\r\n.\r\n..dots\r\n\r\n\r\n";
