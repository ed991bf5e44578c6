//! The form that RT's mail gateway reads (`multipart/form-data`, RFC 7578), with the same fields that RT's own rt-mailgate sends.

use crate::config::RtTarget;

/// What goes before and after the message. The message itself is one of the fields and needs no encoding.
#[derive(Debug)]
pub(super) struct Form {
    pub(super) content_type: String,
    pub(super) before: Vec<u8>,
    pub(super) after: Vec<u8>,
}

impl Form {
    /// `unique` are the 16 random octets of the boundary: nobody who writes a mail can guess them.
    pub(super) fn new(target: &RtTarget, unique: [u8; 16]) -> Self {
        let unique: String = unique.iter().map(|octet| format!("{octet:02x}")).collect();
        let boundary = format!("deskmilter-{unique}");
        let mut before = String::new();
        for (name, value) in [("queue", &target.queue), ("action", &target.action)] {
            before += &format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n");
        }
        before += &format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"message\"\r\n\
             Content-Type: application/octet-stream\r\n\r\n"
        );
        Self {
            content_type: format!("multipart/form-data; boundary={boundary}"),
            before: before.into_bytes(),
            after: format!("\r\n--{boundary}--\r\n").into_bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_has_the_fields_of_rts_own_client() {
        let target = RtTarget { queue: "Größe".to_owned(), action: "correspond".to_owned() };
        let form = Form::new(&target, [0xab; 16]);
        let boundary = format!("deskmilter-{}", "ab".repeat(16));
        assert_eq!(form.content_type, format!("multipart/form-data; boundary={boundary}"));
        assert_eq!(
            String::from_utf8([form.before, b"X: y\n\nz".to_vec(), form.after].concat()).unwrap(),
            "--B\r\nContent-Disposition: form-data; name=\"queue\"\r\n\r\nGröße\r\n\
             --B\r\nContent-Disposition: form-data; name=\"action\"\r\n\r\ncorrespond\r\n\
             --B\r\nContent-Disposition: form-data; name=\"message\"\r\nContent-Type: application/octet-stream\r\n\r\n\
             X: y\n\nz\r\n--B--\r\n"
                .replace('B', &boundary)
        );
    }
}
