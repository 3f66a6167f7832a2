//! Form of a file by its first bytes, not by its name.

/// A file form that is not read, with advice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Other {
    /// The form with its article: `a WebP picture`.
    pub name: &'static str,
    /// Advice on what to do with it.
    pub way: &'static str,
}

impl Other {
    /// Whether it is a picture that another program reads.
    pub(crate) fn is_picture(self) -> bool {
        self.way == CONVERT || self.way == EXPORT
    }
}

/// Form of a file by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// A PNG picture, perhaps cut short within its signature.
    Png,
    /// A JPEG picture.
    Jpeg,
    /// Another known form.
    Other(Other),
    /// An unknown form.
    Unknown,
}

/// Description of a file of an unknown form.
pub(super) const UNKNOWN: &str = "a file of an unknown form";

pub(super) const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";

const CONVERT: &str = "convert it to one of them";
const EXPORT: &str = "export it as one of them";
const FETCH: &str = "the picture itself was not fetched, download it again";
const UNPACK: &str = "unpack it";
const FRAMES: &str = "extract its frames";

/// Position and bytes of a signature, with name of the form and advice.
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
    (0, b"II\xBC\x01", "a JPEG XR picture", CONVERT),
    (0, b"IIU\0", "a camera's raw file", CONVERT),
    (0, b"IIRO", "a camera's raw file", CONVERT),
    (0, b"FUJIFILMCCD-RAW", "a camera's raw file", CONVERT),
    (0, b"BPG\xFB", "a BPG picture", CONVERT),
    (0, b"FLIF", "a FLIF picture", CONVERT),
    (0, b"\x01\xDA\0\x01", "an SGI picture", CONVERT),
    (0, b"\x01\xDA\0\x02", "an SGI picture", CONVERT),
    (0, b"\x01\xDA\x01\x01", "an SGI picture", CONVERT),
    (0, b"\x01\xDA\x01\x02", "an SGI picture", CONVERT),
    (0, b"\x59\xA6\x6A\x95", "a Sun raster picture", CONVERT),
    (0, b"farbfeld", "a farbfeld picture", CONVERT),
    (0, b"AT&TFORM", "a DjVu document", EXPORT),
    (128, b"DICM", "a DICOM file", EXPORT),
    (0, b"SIMPLE  =", "a FITS file", EXPORT),
    (40, b" EMF", "an EMF drawing", EXPORT),
    (0, b"\xD7\xCD\xC6\x9A", "a WMF drawing", EXPORT),
    (12, b"CgBI", "a PNG picture in the form of iOS (CgBI)", CONVERT),
    (0, b"FLV\x01", "a Flash film", FRAMES),
    (0, b"\0\0\x01\xBA", "an MPEG film", FRAMES),
    (0, b"\0\0\x01\xB3", "an MPEG film", FRAMES),
    (0, b"v/1\x01", "an OpenEXR picture", CONVERT),
    (0, b"qoif", "a QOI picture", CONVERT),
    (0, b"DDS ", "a DDS texture", CONVERT),
    (0, b"#?RADIANCE", "a Radiance HDR picture", CONVERT),
    (0, b"%PDF-", "a PDF document", EXPORT),
    (0, b"%!PS", "a PostScript document", EXPORT),
    (0, b"\x8AMNG", "an MNG film", CONVERT),
    (
        0,
        b"\x89PNG\n",
        "a PNG picture damaged by a transfer in text mode",
        "transfer it in binary mode",
    ),
    (
        0,
        b"\x89PNG\r\r\n",
        "a PNG picture damaged by a transfer in text mode",
        "transfer it in binary mode",
    ),
    (0, b"\0\x05\x16\x07", "a file of macOS attributes (AppleDouble)", "remove it"),
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
    (0, b"\x1A\x45\xDF\xA3", "a Matroska or WebM film", FRAMES),
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
    let is_png = bytes.starts_with(PNG) && bytes.get(12..16) != Some(b"CgBI");
    if is_png || (bytes.len() < PNG.len() && PNG.starts_with(bytes)) {
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
    if let Some(name) = icon(bytes) {
        return other(name, CONVERT);
    }
    if is_tga(bytes) {
        return other("a TGA picture", CONVERT);
    }
    if is_pcx(bytes) {
        return other("a PCX picture", CONVERT);
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
        b"AVI " => Some(("an AVI film", FRAMES)),
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
        None => Some(("a film (MP4 or MOV)", FRAMES)),
    }
}

fn is_bmp(bytes: &[u8]) -> bool {
    // Two letters alone could begin a text. The size of the second header is one of a few.
    let header = bytes.get(14..18).and_then(|size| size.first_chunk::<4>());
    let header = header.map(|size| u32::from_le_bytes(*size));
    bytes.starts_with(b"BM") && matches!(header, Some(12 | 16 | 40 | 52 | 56 | 64 | 108 | 124))
}

/// Name of an icon or cursor, by its first entry: other files begin with the same four bytes.
fn icon(bytes: &[u8]) -> Option<&'static str> {
    let name = match bytes.get(..4)? {
        b"\0\0\x01\0" => "an icon file (ICO)",
        b"\0\0\x02\0" => "a cursor file (CUR)",
        _ => return None,
    };
    let count = u32::from(u16::from_le_bytes(*bytes.get(4..)?.first_chunk()?));
    let [size, at] =
        [14, 18].map(|k| bytes.get(k..)?.first_chunk().map(|n| u32::from_le_bytes(*n)));
    let plausible = (1..=1024).contains(&count) && bytes.get(9) == Some(&0);
    (plausible && size? > 0 && at? >= 6 + 16 * count).then_some(name)
}

/// Whether all fields of a TGA header make sense together: it has no signature.
fn is_tga(bytes: &[u8]) -> bool {
    let Some(&[_, map, kind, _, _, n0, n1, bits, _, _, _, _, w0, w1, h0, h1, depth, how]) =
        bytes.first_chunk::<18>()
    else {
        return false;
    };
    let coded = match kind {
        1 | 9 => map == 1 && (n0, n1) != (0, 0) && matches!(bits, 15 | 16 | 24 | 32),
        2 | 3 | 10 | 11 => map == 0 && (n0, n1, bits) == (0, 0, 0),
        _ => false,
    };
    let sized = (w0, w1) != (0, 0) && (h0, h1) != (0, 0);
    coded && sized && matches!(depth, 8 | 15 | 16 | 24 | 32) && how & 0xC0 == 0
}

fn is_pcx(bytes: &[u8]) -> bool {
    matches!(bytes, [0x0A, 0 | 2..=5, 0 | 1, 1 | 2 | 4 | 8, ..]) && bytes.len() > 64
}

fn is_pnm(bytes: &[u8]) -> bool {
    matches!(bytes, [b'P', b'1'..=b'7' | b'F' | b'f', space, ..] if space.is_ascii_whitespace())
}

fn text(bytes: &[u8]) -> Option<(&'static str, &'static str)> {
    let head = &bytes[..bytes.len().min(1024)];
    let wide = utf16(head);
    let head = wide.as_ref().map_or(head, String::as_bytes);
    let head = head.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(head);
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        // A character may be cut in two at the end of the examined bytes.
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

/// Decodes a text in UTF-16 by its byte order mark; `None` if a part of it is not text.
fn utf16(bytes: &[u8]) -> Option<String> {
    let unit: fn([u8; 2]) -> u16 = match bytes.get(..2)? {
        b"\xFF\xFE" => u16::from_le_bytes,
        b"\xFE\xFF" => u16::from_be_bytes,
        _ => return None,
    };
    let units = bytes[2..].as_chunks::<2>().0.iter().map(|pair| unit(*pair));
    let mut units: Vec<u16> = units.collect();
    // A character may be cut in two at the end of the examined bytes.
    units.pop_if(|last| (0xD800..0xDC00).contains(last));
    String::from_utf16(&units).ok()
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
        let tga = b"\0\0\x02\0\0\0\0\0\0\0\0\0\x20\0\x10\0\x18\x20";
        let mapped = b"\0\x01\x01\0\0\0\x01\x18\0\0\0\0\x20\0\x10\0\x08\0";
        let dicom = [&[0; 128][..], b"DICM\x02\0"].concat();
        let emf = [&b"\x01\0\0\0"[..], &[0; 36], b" EMF"].concat();
        let pcx = [&b"\x0A\x05\x01\x08"[..], &[0; 124]].concat();
        let entry = b"\x10\x10\0\0\x01\0\x20\0\x30\0\0\0\x16\0\0\0";
        let [ico, cur] = [1u8, 2].map(|kind| [&[0, 0, kind, 0, 1, 0][..], entry].concat());
        let wide = |text: &str| -> Vec<u8> {
            let units = std::iter::once(0xFEFF).chain(text.encode_utf16());
            units.flat_map(u16::to_le_bytes).collect()
        };
        let (page, note) = (wide("<html>not found</html>"), wide("gr\u{fc}n"));
        let known: [(&[u8], &str); 45] = [
            (tga, "TGA"),
            (mapped, "TGA"),
            (&dicom, "DICOM"),
            (&emf, "EMF"),
            (&pcx, "PCX"),
            (&ico, "icon"),
            (&cur, "cursor"),
            (&page, "web page"),
            (&note, "a text"),
            (b"\0\0\x02\0\x09\0\xFF", "unknown"),
            (b"II\xBC\x01\x20\0", "JPEG XR"),
            (b"\x01\xDA\x01\x01\0\x03", "SGI"),
            (b"BPG\xFB\0", "BPG"),
            (b"AT&TFORM\0\0", "DjVu"),
            (b"FLV\x01\x05", "Flash"),
            (b"\0\0\x01\xBA\x44", "MPEG"),
            (b"SIMPLE  =                    T", "FITS"),
            (b"\x89PNG\r\n\x1a\n\0\0\0\x04CgBI\x50", "CgBI"),
            (b"FLIF31", "FLIF"),
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
