//! `[connector.delivery]` as text, in the effective configuration.

use std::fmt;

use super::delivery::{Delivery, DeliveryWay, Post, PostProof, Shape};
use super::quantity;

/// Secrets are only named by their files.
pub(super) fn write(f: &mut fmt::Formatter<'_>, delivery: &Delivery) -> fmt::Result {
    writeln!(f, "\n[connector.delivery]")?;
    if let Some(preset) = delivery.preset {
        writeln!(f, "preset = {:?}", preset.as_str())?;
    }
    match &delivery.way {
        DeliveryWay::Command(words) => writeln!(f, "command = {words:?}")?,
        DeliveryWay::Post(post) => write_post(f, post)?,
    }
    writeln!(f, "line_ending = {:?}", delivery.line_ending.as_str())?;
    writeln!(f, "concurrency = {}", delivery.concurrency)?;
    writeln!(f, "deadline = {:?}", quantity::write_duration(delivery.deadline))
}

fn write_post(f: &mut fmt::Formatter<'_>, post: &Post) -> fmt::Result {
    writeln!(f, "url = {:?}\npath = {:?}", post.url.to_string(), post.path)?;
    if let Shape::RtForm { target, queues } = &post.shape {
        writeln!(f, "queue = {:?}\naction = {:?}", target.queue, target.action)?;
        let queues: Vec<_> = queues
            .iter()
            .map(|(address, target)| {
                let (queue, action) = (&target.queue, &target.action);
                format!("{{ address = {:?}, queue = {queue:?}, action = {action:?} }}", address.to_string())
            })
            .collect();
        writeln!(f, "queues = [{}]", queues.join(", "))?;
    }
    match &post.proof {
        PostProof::None => {}
        PostProof::Basic { username, password_file } => {
            writeln!(f, "username = {username:?}\npassword_file = {:?}", password_file.path())?;
        }
        PostProof::Key { header, key_file } => {
            writeln!(f, "key_header = {header:?}\nkey_file = {:?}", key_file.path())?;
        }
        PostProof::Jwt { header, issuer, secret_file } => {
            writeln!(f, "jwt_header = {header:?}\njwt_issuer = {issuer:?}")?;
            writeln!(f, "jwt_secret_file = {:?}", secret_file.path())?;
        }
    }
    if let Some(ca_file) = &post.ca_file {
        writeln!(f, "ca_file = {ca_file:?}")?;
    }
    writeln!(f, "refused = {:?}", post.refused.as_str())
}
