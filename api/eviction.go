package api

import (
	"context"

	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	policyclient "k8s.io/client-go/kubernetes/typed/policy/v1"
)

// noBudgets tells upstream's eviction that there are no disruption budgets: on one host an eviction is a deletion, with
// the grace period and the preconditions that it asks for.
type noBudgets struct{}

func (noBudgets) PodDisruptionBudgets(string) policyclient.PodDisruptionBudgetInterface {
	return noBudgetsClient{}
}

// noBudgetsClient has the one method that is called while there are none.
type noBudgetsClient struct {
	policyclient.PodDisruptionBudgetInterface
}

func (noBudgetsClient) List(context.Context, metav1.ListOptions) (*policyv1.PodDisruptionBudgetList, error) {
	return &policyv1.PodDisruptionBudgetList{}, nil
}
