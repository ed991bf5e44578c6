//! `[connector.delivery]` as serde reads it.

use serde::Deserialize;
use toml::Spanned;

type Text = Spanned<String>;

#[derive(Debug, Deserialize)]
pub(super) struct Delivery {
    pub(super) preset: Option<Text>,
    pub(super) command: Option<Spanned<Vec<Text>>>,
    pub(super) url: Option<Text>,
    pub(super) path: Option<Text>,
    pub(super) queue: Option<Text>,
    pub(super) action: Option<Text>,
    pub(super) queues: Option<Spanned<Vec<QueueOf>>>,
    pub(super) username: Option<Text>,
    pub(super) password_file: Option<Text>,
    pub(super) key_header: Option<Text>,
    pub(super) key_file: Option<Text>,
    pub(super) jwt_header: Option<Text>,
    pub(super) jwt_issuer: Option<Text>,
    pub(super) jwt_secret_file: Option<Text>,
    pub(super) ca_file: Option<Text>,
    pub(super) refused: Option<Text>,
    pub(super) line_ending: Option<Text>,
    pub(super) concurrency: Option<Spanned<u64>>,
    pub(super) deadline: Option<Text>,
}

#[derive(Debug, Deserialize)]
pub(super) struct QueueOf {
    pub(super) address: Text,
    pub(super) queue: Option<Text>,
    pub(super) action: Option<Text>,
}
