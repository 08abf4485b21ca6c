// Package early has the memory ready that a command needs for its start.
//
// The tables of the packages that a command is made of, and what it makes until it does its work, are some 20 MB. Collecting
// garbage meanwhile would find next to none, and getting that memory page by page is a fifth of the time of the start. So a
// part of the heap is taken in huge pages, where the kernel gives some, and no garbage is collected, until Over.
//
// A package is initialised as soon as all it imports are, the first by name of those that could be: this one imports little
// and so can be used before nearly all others are.
package early

import (
	"runtime"
	"syscall"
	"unsafe"
)

const (
	hugePage  = 2 << 20
	prepared  = 16 << 20 // of the heap
	untouched = 64 << 20 // is never written to, and so takes no memory
)

var (
	// ballast lets the heap grow to twice its size before garbage is collected.
	ballast []byte
	// from is where the prepared part of the heap begins; 0 is that there is none. The heap keeps its addresses, whatever is in it.
	from uintptr
)

// Begin is for the beginning of a command. Once is enough.
func Begin() {
	runtime.MemProfileRate = 0        // nobody asks for it
	ballast = make([]byte, untouched) // first: what is free again after prepare would be cleared for it, page by page
	prepare()
	runtime.GC() // what prepare had is free again, and the next to be given
}

// prepare touches memory of the heap.
func prepare() {
	heap := make([]byte, prepared+hugePage)
	heap = heap[-uintptr(unsafe.Pointer(unsafe.SliceData(heap)))%hugePage:][:prepared]
	if syscall.Madvise(heap, syscall.MADV_HUGEPAGE) != nil {
		return
	}
	for i := 0; i < len(heap); i += hugePage {
		heap[i] = 1
	}
	from = uintptr(unsafe.Pointer(unsafe.SliceData(heap)))
}

// Over ends what is only for the start. What is free now goes back to the kernel with the next debug.FreeOSMemory, and page by
// page from then on.
func Over() {
	ballast = nil
	if from != 0 {
		advise(from, prepared, syscall.MADV_NOHUGEPAGE)
		from = 0
	}
}

// advise leaves it to the kernel whether it follows.
func advise(from, size uintptr, advice int) {
	_, _, _ = syscall.Syscall(syscall.SYS_MADVISE, from, size, uintptr(advice))
}
