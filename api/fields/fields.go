// Package fields is the table of what podd honours of a pod.
package fields

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Check says which fields of a defaulted pod podd does not honour: one error per field, at its path.
func Check(pod *v1.Pod) field.ErrorList { return nil }
