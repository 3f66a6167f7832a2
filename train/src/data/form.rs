//! What a file is, by its first bytes and not by its name.

/// A form of file that is not read, and what helps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Other {
    /// What it is, as `a WebP picture`.
    pub name: &'static str,
    /// What to do about it.
    pub way: &'static str,
}

impl Other {
    /// Whether it holds a picture that another program reads.
    pub fn is_picture(self) -> bool {
        self.way == CONVERT || self.way == EXPORT
    }
}

/// What the first bytes of a file say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// A PNG picture, perhaps cut short within its signature.
    Png,
    /// A JPEG picture.
    Jpeg,
    /// Something else that is known.
    Other(Other),
    /// Nothing known.
    Unknown,
}

pub(super) const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";

const CONVERT: &str = "convert it to one of them";
const EXPORT: &str = "export it as one of them";
const FETCH: &str = "the picture itself was not fetched, download it again";
const UNPACK: &str = "unpack it";

/// Bytes at a position, and what a file with them is.
type Magic = (usize, &'static [u8], &'static str, &'static str);

const KNOWN: &[Magic] = &[
    (0, b"GIF87a", "a GIF picture", CONVERT),
    (0, b"GIF89a", "a GIF picture", CONVERT),
    (0, b"II*\0", "a TIFF picture (or a camera's raw file)", CONVERT),
    (0, b"MM\0*", "a TIFF picture (or a camera's raw file)", CONVERT),
    (0, b"II+\0", "a BigTIFF picture", CONVERT),
    (0, b"MM\0+", "a BigTIFF picture", CONVERT),
    (0, b"\xFF\x0A", "a JPEG XL picture", CONVERT),
    (0, b"\0\0\0\x0CJXL \r\n\x87\n", "a JPEG XL picture", CONVERT),
    (0, b"\0\0\0\x0CjP  \r\n\x87\n", "a JPEG 2000 picture", CONVERT),
    (0, b"\xFF\x4F\xFF\x51", "a JPEG 2000 picture", CONVERT),
    (0, b"\xFF\xD8\xFF\xF7", "a JPEG-LS picture", CONVERT),
    (0, b"8BPS", "a Photoshop document", EXPORT),
    (0, b"gimp xcf", "a GIMP document", EXPORT),
    (0, b"\0\0\x01\0", "an icon file (ICO)", CONVERT),
    (0, b"\0\0\x02\0", "a cursor file (CUR)", CONVERT),
    (0, b"v/1\x01", "an OpenEXR picture", CONVERT),
    (0, b"qoif", "a QOI picture", CONVERT),
    (0, b"DDS ", "a DDS texture", CONVERT),
    (0, b"#?RADIANCE", "a Radiance HDR picture", CONVERT),
    (0, b"%PDF-", "a PDF document", EXPORT),
    (0, b"%!PS", "a PostScript document", EXPORT),
    (0, b"\x8AMNG", "an MNG film", CONVERT),
    (0, b"\x89PNG\n", "a PNG picture that a transfer as text has damaged", "transfer it as binary"),
    (
        0,
        b"\x89PNG\r\r\n",
        "a PNG picture that a transfer as text has damaged",
        "transfer it as binary",
    ),
    (0, b"\0\x05\x16\x07", "a Mac's file of attributes beside a picture", "remove it"),
    (0, b"PK\x03\x04", "a ZIP archive", UNPACK),
    (0, b"\x1F\x8B", "a gzip archive", UNPACK),
    (0, b"BZh", "a bzip2 archive", UNPACK),
    (0, b"\xFD7zXZ\0", "an xz archive", UNPACK),
    (0, b"(\xB5/\xFD", "a Zstandard archive", UNPACK),
    (0, b"7z\xBC\xAF\x27\x1C", "a 7z archive", UNPACK),
    (0, b"Rar!", "a RAR archive", UNPACK),
    (257, b"ustar", "a tar archive", UNPACK),
    (0, b"\x93NUMPY", "a NumPy array", EXPORT),
    (0, b"\x89HDF\r\n", "an HDF5 file", EXPORT),
    (0, b"MATLAB", "a MATLAB file", EXPORT),
    (0, b"\x1A\x45\xDF\xA3", "a Matroska or WebM film", "extract its frames"),
    (
        0,
        b"version https://git-lfs.github.com",
        "a Git LFS pointer",
        "fetch the file with git lfs pull",
    ),
    (0, b"/annex/objects/", "a git-annex pointer", "fetch the file with git annex get"),
];

/// Brands of the ISO base media format.
const BRANDS: &[(&[u8], &str)] = &[
    (b"avif", "an AVIF picture"),
    (b"avis", "an AVIF picture"),
    (b"heic", "a HEIC picture"),
    (b"heix", "a HEIC picture"),
    (b"heim", "a HEIC picture"),
    (b"heis", "a HEIC picture"),
    (b"hevc", "a HEIC picture"),
    (b"hevx", "a HEIC picture"),
    (b"mif1", "a HEIF picture"),
    (b"msf1", "a HEIF picture"),
    (b"crx ", "a camera's raw file"),
    (b"jxl ", "a JPEG XL picture"),
    (b"jp2 ", "a JPEG 2000 picture"),
];

/// The form of the file that begins with `bytes`; a kilobyte is enough.
pub(super) fn form(bytes: &[u8]) -> Form {
    if bytes.starts_with(PNG) || (bytes.len() < PNG.len() && PNG.starts_with(bytes)) {
        return Form::Png;
    }
    let known = KNOWN
        .iter()
        .find(|(at, magic, ..)| bytes.get(*at..).is_some_and(|rest| rest.starts_with(magic)));
    let other = |name, way| Form::Other(Other { name, way });
    if let Some((.., name, way)) = known {
        return other(name, way);
    }
    if bytes.starts_with(b"\xFF\xD8") {
        return Form::Jpeg;
    }
    if let Some((name, way)) = riff(bytes).or_else(|| media(bytes)) {
        return other(name, way);
    }
    if is_bmp(bytes) {
        return other("a BMP picture", CONVERT);
    }
    if is_pnm(bytes) {
        return other("a PNM picture (PBM, PGM, PPM)", CONVERT);
    }
    if !bytes.is_empty() && bytes.iter().all(|byte| *byte == 0) {
        return other("a file of zeros", "an unfinished download or copy, make it again");
    }
    text(bytes).map_or(Form::Unknown, |(name, way)| other(name, way))
}

fn riff(bytes: &[u8]) -> Option<(&'static str, &'static str)> {
    if !bytes.starts_with(b"RIFF") {
        return None;
    }
    match bytes.get(8..12)? {
        b"WEBP" => Some(("a WebP picture", CONVERT)),
        b"AVI " => Some(("an AVI film", "extract its frames")),
        _ => None,
    }
}

fn media(bytes: &[u8]) -> Option<(&'static str, &'static str)> {
    if bytes.get(4..8)? != b"ftyp" {
        return None;
    }
    let brand = bytes.get(8..12)?;
    // A picture's own brand may come after a common one.
    let end = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize;
    let compatible = bytes.get(16..end.min(bytes.len())).unwrap_or_default();
    let mut brands = std::iter::once(brand).chain(compatible.chunks_exact(4));
    let known = |brand: &[u8]| BRANDS.iter().find(|(b, _)| *b == brand).map(|(_, name)| *name);
    let first = known(brand).filter(|name| *name != "a HEIF picture");
    match first.or_else(|| brands.find_map(known)) {
        Some(name) => Some((name, CONVERT)),
        None => Some(("a film (MP4 or MOV)", "extract its frames")),
    }
}

fn is_bmp(bytes: &[u8]) -> bool {
    // Two letters alone could begin a text; the size of the second header is one of a few.
    let header = bytes.get(14..18).and_then(|size| size.first_chunk::<4>());
    let header = header.map(|size| u32::from_le_bytes(*size));
    bytes.starts_with(b"BM") && matches!(header, Some(12 | 16 | 40 | 52 | 56 | 64 | 108 | 124))
}

fn is_pnm(bytes: &[u8]) -> bool {
    matches!(bytes, [b'P', b'1'..=b'7' | b'F' | b'f', space, ..] if space.is_ascii_whitespace())
}

fn text(bytes: &[u8]) -> Option<(&'static str, &'static str)> {
    let head = &bytes[..bytes.len().min(1024)];
    let head = head.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(head);
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        // A character may be cut in two at the end of what is looked at.
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&head[..error.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => return None,
    };
    if text.is_empty() || text.contains(|c: char| c.is_control() && !c.is_whitespace()) {
        return None;
    }
    let lower = text.trim_start().to_ascii_lowercase();
    if lower.contains("<svg") {
        return Some(("an SVG drawing", EXPORT));
    }
    if lower.starts_with("<!doctype html") || lower.starts_with("<html") || lower.contains("<html")
    {
        return Some(("a web page (HTML), perhaps an error of the download", FETCH));
    }
    if lower.starts_with("<?xml") {
        return Some(("an XML text", FETCH));
    }
    Some(("a text", "check where it comes from"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(bytes: &[u8]) -> &'static str {
        match form(bytes) {
            Form::Other(other) => other.name,
            Form::Png => "png",
            Form::Jpeg => "jpeg",
            Form::Unknown => "unknown",
        }
    }

    #[test]
    fn files_are_known_by_their_bytes() {
        let mut bmp = b"BM\x46\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0".to_vec();
        bmp.resize(70, 0);
        let tar = [&[b'x'; 257][..], b"ustar\0"].concat();
        let known: [(&[u8], &str); 27] = [
            (PNG, "png"),
            (b"\x89PN", "png"),
            (b"\xFF\xD8\xFF\xE0", "jpeg"),
            (b"RIFF\x10\0\0\0WEBPVP8 ", "WebP"),
            (b"RIFF\x10\0\0\0AVI LIST", "AVI film"),
            (&bmp, "BMP"),
            (b"GIF89a\x01\0", "GIF"),
            (b"II*\0\x08\0\0\0", "TIFF"),
            (b"MM\0*\0\0\0\x08", "TIFF"),
            (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
            (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "HEIF"),
            (b"\0\0\0\x1Cftypavif\0\0\0\0avifmif1", "AVIF"),
            (b"\0\0\0\x18ftypisom\0\0\0\0isommp41", "film"),
            (b"\xFF\x0A\xFA\x7F", "JPEG XL"),
            (b"\0\0\0\x0CJXL \r\n\x87\n", "JPEG XL"),
            (b"\0\0\0\x0CjP  \r\n\x87\n", "JPEG 2000"),
            (b"8BPS\0\x01", "Photoshop"),
            (b"\0\0\x01\0\x01\0", "icon"),
            (b"P6\n4 4\n255\n", "PNM"),
            (b"<?xml version='1.0'?>\n<svg width='3'/>", "SVG"),
            (b"%PDF-1.7\n", "PDF"),
            (b"<!DOCTYPE html><html>404</html>", "web page"),
            (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS"),
            (&tar, "tar archive"),
            (&[0; 600], "zeros"),
            ("a note, gr\u{fc}n".as_bytes(), "a text"),
            (b"\x07\x81\x92\xFE\x33", "unknown"),
        ];
        for (bytes, want) in known {
            assert!(name(bytes).contains(want), "{want}: {}", name(bytes));
        }
    }
}
