// Package early has the memory ready that a command needs for its start.
//
// The tables of the packages that a command is made of, and what it makes until it does its work, are some 20 MB. Collecting
// garbage meanwhile would find next to none, and getting that memory page by page is a third of the time of the start. So a
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
	hugePage = 2 << 20
	prepared = 32 << 20 // of the heap: for a thousand pods, too
	percent  = 1600     // of the 4 MB that are the smallest heap: so much there may be before garbage is collected
)

var (
	// usual is the percentage of Over.
	usual int32
	// from is where the prepared part of the heap begins; 0 is that there is none. The heap keeps its addresses, whatever is in it.
	from uintptr
)

// Begin is for the beginning of a command. Once is enough.
func Begin() {
	runtime.MemProfileRate = 0 // nobody asks for it
	usual = setGCPercent(percent)
	prepare()
	runtime.GC() // what prepare had is free again, and the next to be given
}

// setGCPercent is that of runtime/debug, which imports os.
//
//go:linkname setGCPercent runtime/debug.setGCPercent
func setGCPercent(percent int32) (before int32)

// prepare has a part of the heap come in huge pages when it is first touched, which is not here: only some of it may be needed,
// and it is the kernel's clearing of it that takes time.
func prepare() {
	heap := make([]byte, prepared+hugePage)
	heap = heap[-uintptr(unsafe.Pointer(unsafe.SliceData(heap)))%hugePage:][:prepared]
	if syscall.Madvise(heap, syscall.MADV_HUGEPAGE) == nil {
		from = uintptr(unsafe.Pointer(unsafe.SliceData(heap)))
	}
}

// Over ends what is only for the start. What is free now goes back to the kernel with the next debug.FreeOSMemory, and page by
// page from then on.
func Over() {
	setGCPercent(usual)
	if from != 0 {
		// The kernel need not follow.
		_, _, _ = syscall.Syscall(syscall.SYS_MADVISE, from, prepared, syscall.MADV_NOHUGEPAGE)
		from = 0
	}
}
