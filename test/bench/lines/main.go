// Command lines writes numbered lines of 100 bytes to stdout, as fast as they are taken: as many as its argument says.
package main

import (
	"bufio"
	"os"
	"strconv"
	"time"
)

func main() {
	count, err := strconv.Atoi(os.Args[1])
	if err != nil {
		panic(err)
	}
	for { // written when the reader is there
		if _, err := os.Stat(os.Args[2]); err == nil {
			break
		}
		time.Sleep(time.Millisecond)
	}
	line := []byte("000000000000 the quick brown fox jumps over the lazy dog and the lazy dog looks up to see who it was...\n")[:100]
	line[99] = '\n'
	out := bufio.NewWriterSize(os.Stdout, 64<<10)
	for n := range count {
		for i, rest := 11, n; i >= 0; i, rest = i-1, rest/10 {
			line[i] = byte('0' + rest%10)
		}
		_, _ = out.Write(line)
	}
	_ = out.Flush()
}
