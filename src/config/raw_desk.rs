//! `[connector.desk]` and `[conversations]` as serde reads them.

use serde::Deserialize;
use toml::Spanned;

type Text = Spanned<String>;

#[derive(Debug, Default, Deserialize)]
pub(super) struct Desk {
    pub(super) strip: Option<Spanned<Vec<Text>>>,
    pub(super) ticket_tag: Option<Text>,
    pub(super) update_tag: Option<Text>,
    pub(super) subject_token: Option<Text>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Conversations {
    pub(super) lifetime: Option<Text>,
    pub(super) messages: Option<Spanned<u64>>,
}
