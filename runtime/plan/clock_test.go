package plan

import (
	"container/heap"
	"time"
)

// clock is a world's own time. It passes only in pass, and what is due meanwhile happens there, one thing after another:
// a life is the same whenever it is lived, and ten thousand of them take seconds.
type clock struct {
	now   time.Time
	queue queue
	count int
}

// event is something that will happen. Without do it was called off.
type event struct {
	at time.Time
	n  int // of two at one instant the one that was planned first happens first
	do func()
}

func (e *event) off() {
	if e != nil {
		e.do = nil
	}
}

// after lets do happen d from now.
func (c *clock) after(d time.Duration, do func()) *event {
	c.count++
	e := &event{at: c.now.Add(max(d, 0)), n: c.count, do: do}
	heap.Push(&c.queue, e)
	return e
}

// pass lets d pass, and everything happen that is due by its end.
func (c *clock) pass(d time.Duration) {
	end := c.now.Add(d)
	for len(c.queue) > 0 && !c.queue[0].at.After(end) {
		e := heap.Pop(&c.queue).(*event)
		if e.do != nil {
			c.now = e.at
			e.do()
		}
	}
	c.now = end
}

type queue []*event

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	return q[i].at.Before(q[j].at) || q[i].at.Equal(q[j].at) && q[i].n < q[j].n
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(*event)) }
func (q *queue) Pop() any {
	last := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return last
}
