package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// What ends the wait of a run from outside.
var (
	errTimeout = errors.New("timed out")
	errOver    = errors.New("over")
)

// interrupted is a signal that ended a run.
type interrupted struct{ signal syscall.Signal }

func (i interrupted) Error() string {
	return fmt.Sprintf("interrupted by %s", signalName(int32(i.signal)))
}

// heed makes signals end the run: the first one the wait, the next the grace periods, one more the cleaning. Signals that
// whoever started podctl has told it to ignore stay ignored. A reader of the output that goes away ends nothing.
func (r *runner) heed() (stop func()) {
	work, end := context.WithCancelCause(context.Background())
	gentle, hurry := context.WithCancel(context.Background())
	last, giveUp := context.WithCancel(context.Background())
	r.work, r.end, r.gentle, r.last = work, end, gentle, last

	signals, pipe := make(chan os.Signal, 8), make(chan os.Signal, 1)
	for _, s := range []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGHUP} {
		if !signal.Ignored(s) {
			signal.Notify(signals, s)
		}
	}
	signal.Notify(pipe, syscall.SIGPIPE) // without it a broken pipe would end the process
	var heeding sync.WaitGroup
	heeding.Go(func() {
		for s := range signals {
			number, _ := s.(syscall.Signal)
			switch {
			case work.Err() == nil:
				end(interrupted{number})
			case number == syscall.SIGHUP: // a terminal that goes may say so twice
			case gentle.Err() == nil:
				hurry()
			default:
				giveUp()
			}
		}
	})
	return func() {
		signal.Stop(signals)
		signal.Stop(pipe)
		close(signals)
		heeding.Wait()
		end(errOver)
		hurry()
		giveUp()
	}
}

// cut is the outcome of a run whose wait was ended from outside.
func (r *runner) cut() outcome {
	var by interrupted
	switch err := context.Cause(r.work); {
	case errors.As(err, &by):
		return outcome{code: codeSignal + int(by.signal), why: err.Error()}
	case errors.Is(err, errTimeout):
		return outcome{code: codeTimeout, why: fmt.Sprintf("not %s after %s", r.o.until, r.o.timeout)}
	default:
		return outcome{code: codeNever, why: err.Error()}
	}
}
