//! Finds the public key in a certificate of any version (RFC 5280, section 4.1). `tls.rs` verifies the certificate.

use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer};

const SEQUENCE: u8 = 0x30;
/// The tag of the version, the first element of certificates from version 2 on.
const VERSION: u8 = 0xa0;
/// The elements before the key: serial number, algorithm, issuer, validity and subject.
const ELEMENTS_BEFORE_KEY: usize = 5;

/// Finds the public key; `None` when the bytes are no certificate.
pub fn of<'a>(certificate: &'a CertificateDer<'_>) -> Option<SubjectPublicKeyInfoDer<'a>> {
    let signed = Element::first(certificate)?.inside(SEQUENCE)?;
    let mut rest = Element::first(signed)?.inside(SEQUENCE)?;
    let first = Element::first(rest)?;
    if first.tag == VERSION {
        rest = first.rest;
    }
    for _ in 0..ELEMENTS_BEFORE_KEY {
        rest = Element::first(rest)?.rest;
    }
    let key = Element::first(rest)?;
    (key.tag == SEQUENCE).then(|| SubjectPublicKeyInfoDer::from(key.whole))
}

/// A DER element and the bytes after it.
struct Element<'a> {
    tag: u8,
    contents: &'a [u8],
    whole: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Element<'a> {
    fn first(text: &'a [u8]) -> Option<Element<'a>> {
        let (&[tag, length], after) = text.split_first_chunk()?;
        let (length, after) = match length {
            0..0x80 => (usize::from(length), after),
            0x81 => {
                let (&[length], after) = after.split_first_chunk()?;
                (usize::from(length), after)
            }
            0x82 => {
                let (&length, after) = after.split_first_chunk()?;
                (usize::from(u16::from_be_bytes(length)), after)
            }
            // No certificate is longer than 64 KiB.
            0x80 | 0x83.. => return None,
        };
        let (contents, rest) = after.split_at_checked(length)?;
        let whole = &text[..text.len() - rest.len()];
        Some(Element {
            tag,
            contents,
            whole,
            rest,
        })
    }

    fn inside(&self, tag: u8) -> Option<&'a [u8]> {
        (self.tag == tag).then_some(self.contents)
    }
}
