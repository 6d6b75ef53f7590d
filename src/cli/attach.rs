//! Attachments on a command line: files beside a payload, and what is shown of those that come.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::PathBuf;

use clap::Args;
use ipc_framework::Json;
use ipc_framework::proto::{Attachment, Dtype, NewAttachment};

use super::failure::Failure;

/// Limit of a file on a command line, as for payloads. A server's own limit may be lower.
const BYTES_MAX: u64 = 64 << 20;

#[derive(Args, Debug)]
pub(super) struct Attach {
    /// Send a file in place of a null of the payload: plain bytes, or with `:DTYPE:SHAPE` a tensor in
    /// little-endian C order, such as `/image=@cat.f32:f32:224,224,3`. May be given many times
    #[arg(long, value_name = "POINTER=@FILE[:DTYPE:SHAPE]", conflicts_with = "lines")]
    attach: Vec<String>,
}

#[derive(Args, Debug)]
pub(super) struct Save {
    /// Write the attachments that come into files of this directory
    #[arg(long, value_name = "DIR")]
    save: Option<PathBuf>,
}

/// A file that is to be sent, before it is read.
#[derive(Debug, PartialEq)]
struct Source<'a> {
    pointer: &'a str,
    path: &'a str,
    dtype: Option<Dtype>,
    shape: Vec<u64>,
}

impl Attach {
    /// Returns the payload with the files beside it.
    pub(super) fn to(&self, payload: Json<'static>) -> Result<Json<'static>, Failure> {
        let mut files = Vec::new();
        for argument in &self.attach {
            let source = Source::parse(argument)?;
            let data = source.read()?;
            files.push((source, data));
        }
        let attachments: Vec<_> = files
            .iter()
            .map(|(source, data)| NewAttachment {
                pointer: source.pointer,
                dtype: source.dtype,
                shape: &source.shape,
                data,
            })
            .collect();
        for (new, (source, data)) in attachments.iter().zip(&files) {
            if !new.is_consistent() {
                let (path, bytes) = (source.path, data.len());
                return Err(Failure::usage(format!(
                    "{path} has {bytes} bytes, and its dtype and shape say something else; correct \
                     them"
                )));
            }
        }
        payload.with_attachments(&attachments).map_err(|error| {
            Failure::usage(format!(
                "{error}; have the payload hold null where an attachment belongs"
            ))
        })
    }
}

impl<'a> Source<'a> {
    fn parse(argument: &'a str) -> Result<Self, Failure> {
        let bad = |what: &str| {
            Failure::usage(format!(
                "--attach {argument}: {what}; write for example --attach /image=@cat.jpg or \
                 --attach /image=@cat.f32:f32:224,224,3"
            ))
        };
        let (pointer, file) =
            argument.split_once("=@").ok_or_else(|| bad("there is no `=@` before a file"))?;
        if !pointer.is_empty() && !pointer.starts_with('/') {
            return Err(bad("a JSON Pointer begins with a slash"));
        }
        // A path may have colons.
        let mut parts = file.rsplitn(3, ':');
        if let (Some(shape), Some(name), Some(path)) = (parts.next(), parts.next(), parts.next())
            && let Some(dtype) = Dtype::from_name(name)
        {
            let sizes = shape.split(',').filter(|_| !shape.is_empty());
            let shape = sizes.map(|size| size.trim().parse().ok()).collect::<Option<Vec<u64>>>();
            let shape = shape.ok_or_else(|| bad("a shape is numbers with commas between them"))?;
            return Ok(Self { pointer, path, dtype: Some(dtype), shape });
        }
        Ok(Self { pointer, path: file, dtype: None, shape: Vec::new() })
    }

    fn read(&self) -> Result<Vec<u8>, Failure> {
        let path = self.path;
        let mut data = Vec::new();
        let read = File::open(path)
            .and_then(|file| file.take(BYTES_MAX + 1).read_to_end(&mut data))
            .map_err(|error| {
                Failure::usage(format!("cannot read {path}: {error}; check its path"))
            })?;
        if read as u64 > BYTES_MAX {
            return Err(Failure::usage(format!(
                "{path} holds more than {BYTES_MAX} bytes; send it in parts"
            )));
        }
        Ok(data)
    }
}

impl Save {
    /// Returns what stores and describes attachments.
    pub(super) fn saver(&self) -> Result<Saver, Failure> {
        if let Some(directory) = &self.save {
            fs::create_dir_all(directory).map_err(|error| {
                let directory = directory.display();
                Failure::usage(format!("cannot make {directory}: {error}; name another directory"))
            })?;
        }
        Ok(Saver { directory: self.save.clone(), saved: 0 })
    }
}

/// Describes attachments in place of their nulls, and stores them if there is a directory.
#[derive(Debug)]
pub(super) struct Saver {
    directory: Option<PathBuf>,
    saved: u64,
}

impl Saver {
    /// Returns a payload with a text such as `"<f32 [2,3], 24 bytes>"` in place of each attachment.
    pub(super) fn shown(&mut self, payload: &Json<'_>) -> Result<Json<'static>, Failure> {
        let mut failed = None;
        let shown = payload.substitute(|attachment| {
            let place = self.save(attachment).unwrap_or_else(|failure| {
                failed.get_or_insert(failure);
                None
            });
            let text = describe(attachment, place.as_deref());
            Json::from_serialize(&text).unwrap_or_default()
        });
        failed.map_or(Ok(shown), Err)
    }

    fn save(&mut self, attachment: &Attachment<'_>) -> Result<Option<String>, Failure> {
        let Some(directory) = &self.directory else { return Ok(None) };
        let path = directory.join(file_name(self.saved, attachment));
        self.saved += 1;
        let written = File::create(&path).and_then(|mut file| file.write_all(attachment.data));
        let path = path.display().to_string();
        match written {
            Ok(()) => Ok(Some(path)),
            Err(error) => Err(Failure::runtime(format!("cannot write {path}: {error}"))),
        }
    }
}

fn describe(attachment: &Attachment<'_>, place: Option<&str>) -> String {
    let bytes = attachment.data.len();
    let place = place.map_or(String::new(), |place| format!(" in {place}"));
    match attachment.dtype {
        None => format!("<{bytes} bytes{place}>"),
        Some(dtype) => {
            let sizes: Vec<_> = attachment.shape.iter().map(|size| size.to_string()).collect();
            format!("<{} [{}], {bytes} bytes{place}>", dtype.name(), sizes.join(","))
        }
    }
}

/// Names a file after the place of an attachment, of whose name the peer decides nothing else than letters.
fn file_name(number: u64, attachment: &Attachment<'_>) -> String {
    const NAME_CHARS_MAX: usize = 60;
    let is_plain = |char: char| char.is_ascii_alphanumeric() || matches!(char, '-' | '_');
    let plain = |char: char| if is_plain(char) { char } else { '-' };
    let name: String = attachment.pointer.chars().map(plain).take(NAME_CHARS_MAX).collect();
    format!("{number:04}{name}.{}", attachment.dtype.map_or("bin", Dtype::name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_plain_bytes_unless_its_type_follows() {
        let source = |pointer, path, dtype, shape: &[u64]| Source {
            pointer,
            path,
            dtype,
            shape: shape.to_vec(),
        };
        for (argument, expected) in [
            ("/image=@cat.jpg", source("/image", "cat.jpg", None, &[])),
            ("=@a=@b:c:d", source("", "a=@b:c:d", None, &[])),
            ("/a/0=@C:x:f32:2,3", source("/a/0", "C:x", Some(Dtype::F32), &[2, 3])),
            ("/a=@x:f64:", source("/a", "x", Some(Dtype::F64), &[])),
            ("/a=@x:u8:0", source("/a", "x", Some(Dtype::U8), &[0])),
        ] {
            assert_eq!(Source::parse(argument).unwrap(), expected, "{argument}");
        }
        for (argument, what) in [
            ("/image", "no `=@`"),
            ("/image=cat.jpg", "no `=@`"),
            ("image=@cat.jpg", "begins with a slash"),
            ("/image=@cat:f32:2x3", "numbers with commas"),
        ] {
            let told = Source::parse(argument).unwrap_err().to_string();
            assert!(told.contains(what) && told.contains("write for example"), "{told}");
        }
    }

    #[test]
    fn a_peer_names_no_file() {
        let new = NewAttachment { pointer: "", dtype: None, shape: &[], data: b"x" };
        let json = Json::parse(r#"{"../../etc/passwd\u0000": null, "n": null}"#).unwrap();
        let pointer = "/..~1..~1etc~1passwd\0";
        let tensor = NewAttachment { pointer: "/n", dtype: Some(Dtype::I8), shape: &[1], ..new };
        let json = json.with_attachments(&[NewAttachment { pointer, ..new }, tensor]).unwrap();
        let names: Vec<_> = json.attachments().iter().map(|it| file_name(7, &it)).collect();
        assert_eq!(names, ["0007----1---1etc-1passwd-.bin", "0007-n.i8"]);
        let mut saver = Saver { directory: None, saved: 0 };
        let shown = saver.shown(&json).unwrap();
        assert!(shown.as_str().contains(r#": "<1 bytes>""#), "{shown}");
        assert!(shown.as_str().contains(r#""n": "<i8 [1], 1 bytes>""#), "{shown}");
    }
}
