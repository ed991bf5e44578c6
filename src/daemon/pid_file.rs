//! The file with our process id, for service managers that find a daemon by it.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A process id file. Dropping it removes it, where we may still do that: in a folder of root it stays, as it does after `kill -9`,
/// and the next start replaces it.
#[derive(Debug)]
pub(super) struct PidFile {
    path: PathBuf,
    content: String,
}

impl PidFile {
    /// Writes it aside and renames it into place: nobody reads half a number, and no link is followed.
    pub(super) fn write(path: &Path) -> Result<Self, String> {
        let file = Self { path: path.to_owned(), content: format!("{}\n", std::process::id()) };
        let mut aside = path.as_os_str().to_owned();
        aside.push(".new");
        let aside = PathBuf::from(aside);
        file.place(&aside).map_err(|error| {
            let _ = fs::remove_file(&aside);
            format!("{}: {error}; daemon.pid_file must be in a folder that we may write to", path.display())
        })?;
        Ok(file)
    }

    fn place(&self, aside: &Path) -> io::Result<()> {
        match fs::remove_file(aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut out = OpenOptions::new().write(true).create_new(true).mode(0o644).open(aside)?;
        out.write_all(self.content.as_bytes())?;
        fs::rename(aside, &self.path)
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if fs::read_to_string(&self.path).is_ok_and(|content| content == self.content) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_replaces_an_old_one_follows_no_link_and_goes_with_the_process_but_not_when_it_is_anothers() {
        let folder = tempfile::tempdir().unwrap();
        let (path, victim) = (folder.path().join("deskmilter.pid"), folder.path().join("victim"));
        fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, &path).unwrap();
        let file = PidFile::write(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        drop(file);
        assert!(!path.exists());
        let file = PidFile::write(&path).unwrap();
        fs::write(&path, "1\n").unwrap();
        drop(file);
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n");
        assert!(PidFile::write(&folder.path().join("none/x.pid")).is_err_and(|error| error.contains("pid_file")));
    }
}
