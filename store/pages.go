package store

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"hash/fnv"
)

// Format 1 of the state file was a bbolt file. The reader below takes it apart without bbolt, which ends the process on
// many kinds of damage (a cycle of pages, a length that points out of the file). It knows the file format of bbolt version 2: pages of a fixed size, each
// with a header; two meta pages, of which the valid one with the higher transaction counts; a tree of branch and leaf
// pages; a bucket is a leaf element that holds the root page of another tree, or that tree's only page itself. Numbers
// are in the byte order of the host, which for all hosts of podd is little-endian.
const (
	pageHeader  = 16
	elementSize = 16

	branchPage = 0x01
	leafPage   = 0x02
	metaPage   = 0x04

	bucketElement = 0x01

	boltMagic   = 0xED0CDAED
	boltVersion = 2
)

// bucketKey names a value of a bbolt file.
type bucketKey struct{ bucket, key string }

// unseal checks and takes away the checksum that a value of format 1 begins with.
func unseal(k bucketKey, value []byte) ([]byte, error) {
	sum := crc32.Update(0, castagnoli, []byte(k.bucket+"\x00"+k.key+"\x00"))
	if len(value) < 4 || crc32.Update(sum, castagnoli, value[4:]) != binary.BigEndian.Uint32(value) {
		return nil, fmt.Errorf("%w: checksum of %s %q", errCorrupt, k.bucket, k.key)
	}
	return value[4:], nil
}

type pages struct {
	data    []byte
	size    uint64
	visited map[uint64]bool
}

// readPages is all key-value pairs of the buckets at the top of a bbolt file. Any damage is errCorrupt.
func readPages(data []byte) (found map[bucketKey][]byte, err error) {
	defer func() {
		if r := recover(); r != nil { // an index out of range
			err = fmt.Errorf("%w: %v", errCorrupt, r)
		}
	}()
	root, size, ok := newestMeta(data)
	if !ok {
		return nil, fmt.Errorf("%w: no valid meta page", errCorrupt)
	}
	p := &pages{data: data, size: size, visited: map[uint64]bool{}}
	found = map[bucketKey][]byte{}
	err = p.walk(root, func(bucket string, flags uint32, value []byte) error {
		if flags&bucketElement == 0 {
			return fmt.Errorf("%w: %q is not a bucket", errCorrupt, bucket)
		}
		each := func(key string, flags uint32, value []byte) error {
			if flags != 0 {
				return fmt.Errorf("%w: %q is not a value", errCorrupt, key)
			}
			found[bucketKey{bucket, key}] = value
			return nil
		}
		if sub := binary.LittleEndian.Uint64(value); sub != 0 {
			return p.walk(sub, each)
		}
		return p.elements(value[16:], each)
	})
	return found, err
}

// newestMeta finds the root page and the page size.
func newestMeta(data []byte) (root, size uint64, ok bool) {
	var newest uint64
	try := func(at uint64) {
		if uint64(len(data)) < at+pageHeader+64 {
			return
		}
		m := data[at+pageHeader : at+pageHeader+64]
		sum := fnv.New64a()
		_, _ = sum.Write(m[:56])
		if binary.LittleEndian.Uint32(m) != boltMagic || binary.LittleEndian.Uint32(m[4:]) != boltVersion ||
			binary.LittleEndian.Uint64(m[56:]) != sum.Sum64() {
			return
		}
		if tx := binary.LittleEndian.Uint64(m[48:]); !ok || tx > newest {
			newest, ok = tx, true
			size = uint64(binary.LittleEndian.Uint32(m[8:]))
			root = binary.LittleEndian.Uint64(m[16:])
		}
	}
	try(0)
	for second := uint64(1024); second <= 1<<16; second *= 2 { // the first page may be lost, and the page size with it
		try(second)
	}
	return root, size, ok && size >= 1024
}

// walk visits the elements of the tree below page id.
func (p *pages) walk(id uint64, visit func(key string, flags uint32, value []byte) error) error {
	if p.visited[id] {
		return fmt.Errorf("%w: page %d is used twice", errCorrupt, id)
	}
	p.visited[id] = true
	if id > uint64(len(p.data))/p.size {
		return fmt.Errorf("%w: page %d is beyond the end", errCorrupt, id)
	}
	page := p.data[id*p.size:]
	if binary.LittleEndian.Uint64(page) != id {
		return fmt.Errorf("%w: page %d has another number", errCorrupt, id)
	}
	page = page[:(uint64(binary.LittleEndian.Uint32(page[12:]))+1)*p.size]
	if binary.LittleEndian.Uint16(page[8:]) == leafPage {
		return p.elements(page, visit)
	}
	if binary.LittleEndian.Uint16(page[8:]) != branchPage {
		return fmt.Errorf("%w: page %d is no branch", errCorrupt, id)
	}
	for i := range uint64(binary.LittleEndian.Uint16(page[10:])) {
		child := binary.LittleEndian.Uint64(page[pageHeader+i*elementSize+8:])
		if err := p.walk(child, visit); err != nil {
			return err
		}
	}
	return nil
}

// elements visits the elements of a leaf.
func (p *pages) elements(page []byte, visit func(key string, flags uint32, value []byte) error) error {
	if binary.LittleEndian.Uint16(page[8:]) != leafPage {
		return fmt.Errorf("%w: not a leaf", errCorrupt)
	}
	for i := range uint64(binary.LittleEndian.Uint16(page[10:])) {
		at := pageHeader + i*elementSize
		e := page[at : at+elementSize]
		pos := at + uint64(binary.LittleEndian.Uint32(e[4:]))
		mid := pos + uint64(binary.LittleEndian.Uint32(e[8:]))
		end := mid + uint64(binary.LittleEndian.Uint32(e[12:]))
		if err := visit(string(page[pos:mid]), binary.LittleEndian.Uint32(e), page[mid:end]); err != nil {
			return err
		}
	}
	return nil
}
