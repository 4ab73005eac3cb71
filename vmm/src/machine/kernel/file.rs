//! A kernel, opened and ready to be read into guest memory.

use std::borrow::Cow;
use std::fs::{self, File};
use std::io::{self, BufReader, Cursor, Read, Seek, SeekFrom};
use std::path::Path;

use vm_memory::bitmap::BitmapSlice;
use vm_memory::{ReadVolatile, VolatileMemoryError, VolatileSlice};

use super::decompress::Method;
use super::format::HEAD_SIZE;
use super::zboot::Payload;
use super::{Error, Format, Header, MAX_SIZE, Reason};

/// An arm64 Image, opened and found good.
///
/// Reading it yields the Image itself, decompressed. [`ReadVolatile`] takes an uncompressed file
/// straight to guest memory.
#[derive(Debug)]
pub struct Kernel {
    format: Format,
    header: Header,
    size: u64,
    content: Content,
}

/// Where the bytes of the Image are.
#[derive(Debug)]
enum Content {
    File(File),
    Memory(Cursor<Cow<'static, [u8]>>),
}

impl Kernel {
    /// Opens a kernel file and decompresses what is compressed.
    ///
    /// # Errors
    /// [`Error`], with a [`Reason`] for everything that is no arm64 kernel.
    pub fn open(path: &Path) -> Result<Self, Error> {
        open_file(path)
            .and_then(|(file, size)| Self::from_file(file, size))
            .map_err(|reason| Error { path: path.into(), reason })
    }

    /// A kernel that is part of the program; an uncompressed Image.
    ///
    /// # Errors
    /// A [`Reason`] where it is none.
    pub fn from_static(bytes: &'static [u8]) -> Result<Self, Reason> {
        Self::from_memory(Format::Image, Cow::Borrowed(bytes))
    }

    /// What the file was.
    #[must_use]
    pub const fn format(&self) -> Format {
        self.format
    }

    /// The header of the Image.
    #[must_use]
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// How many bytes the Image has, decompressed.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// How many bytes of guest memory it takes from its first byte on, with its BSS; never less than
    /// [`Kernel::size`]. Any value that a hostile header may hold: nothing to add to unchecked.
    #[must_use]
    pub fn memory_size(&self) -> u64 {
        self.size.max(self.header.image_size)
    }

    fn from_file(mut file: File, size: u64) -> Result<Self, Reason> {
        let mut head = Vec::with_capacity(HEAD_SIZE);
        Read::by_ref(&mut file).take(HEAD_SIZE as u64).read_to_end(&mut head).map_err(Reason::Io)?;
        match Format::recognise(&head)? {
            Format::Image => Self::from_content(Format::Image, &head, size, Content::File(file)),
            Format::Gzip => {
                let whole = Payload { offset: 0, size, method: Method::Gzip };
                Self::from_payload(Format::Gzip, &mut file, &whole)
            }
            Format::Zboot => Self::from_payload(Format::Zboot, &mut file, &Payload::parse(&head, size)?),
        }
    }

    fn from_payload(format: Format, file: &mut File, payload: &Payload) -> Result<Self, Reason> {
        let size_hint = payload.size_hint(file);
        file.seek(SeekFrom::Start(payload.offset)).map_err(Reason::Io)?;
        let input = BufReader::with_capacity(64 << 10, Read::by_ref(file).take(payload.size));
        let bytes = payload.method.decompress(input, size_hint)?;
        match Format::recognise(&bytes[..bytes.len().min(HEAD_SIZE)])? {
            Format::Image => Self::from_memory(format, Cow::Owned(bytes)),
            Format::Gzip | Format::Zboot => Err(Reason::Nested { outer: payload.method.name() }),
        }
    }

    fn from_memory(format: Format, bytes: Cow<'static, [u8]>) -> Result<Self, Reason> {
        let head = bytes[..bytes.len().min(HEAD_SIZE)].to_vec();
        let size = bytes.len() as u64;
        Self::from_content(format, &head, size, Content::Memory(Cursor::new(bytes)))
    }

    fn from_content(format: Format, head: &[u8], size: u64, mut content: Content) -> Result<Self, Reason> {
        // The same answer for a built-in kernel that is none as for a file.
        Format::recognise(head)?;
        let header = Header::parse(head)?.ok_or(Reason::Truncated { size, needed: HEAD_SIZE as u64 })?;
        let needed = match header.needed_size(&mut content) {
            Ok(needed) => needed,
            // The PE header itself is cut off: at least one byte more.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => size + 1,
            Err(error) => return Err(Reason::Io(error)),
        };
        if size < needed {
            return Err(Reason::Truncated { size, needed });
        }
        content.rewind().map_err(Reason::Io)?;
        Ok(Self { format, header, size, content })
    }
}

/// Opens a regular file of a size that a kernel may have.
fn open_file(path: &Path) -> Result<(File, u64), Reason> {
    let refused = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Reason::Missing,
        _ => Reason::Io(error),
    };
    // Asked before opening: opening a named pipe would wait for a writer.
    let metadata = fs::metadata(path).map_err(refused)?;
    if metadata.is_dir() {
        return Err(Reason::Directory);
    }
    if !metadata.is_file() {
        return Err(Reason::NotAFile);
    }
    let file = File::open(path).map_err(refused)?;
    let size = file.metadata().map_err(Reason::Io)?.len();
    if size > MAX_SIZE { Err(Reason::TooLarge { size }) } else { Ok((file, size)) }
}

impl Read for Content {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => file.read(buf),
            Self::Memory(cursor) => cursor.read(buf),
        }
    }
}

impl Seek for Content {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        match self {
            Self::File(file) => file.seek(position),
            Self::Memory(cursor) => cursor.seek(position),
        }
    }
}

impl Read for Kernel {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.content.read(buf)
    }
}

impl Seek for Kernel {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.content.seek(position)
    }
}

impl ReadVolatile for Kernel {
    fn read_volatile<B: BitmapSlice>(
        &mut self,
        buf: &mut VolatileSlice<'_, B>,
    ) -> Result<usize, VolatileMemoryError> {
        match &mut self.content {
            Content::File(file) => file.read_volatile(buf),
            Content::Memory(cursor) => cursor.read_volatile(buf),
        }
    }
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
