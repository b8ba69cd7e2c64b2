// What KubeRay's operator makes of a RayCluster: its own validation, then the Pods, one of each group, as YAML documents.
// By the operator's own functions, without a cluster: `make chart` builds it.
package main

import (
	"context"
	"fmt"
	"io"
	"os"

	rayv1 "github.com/ray-project/kuberay/ray-operator/apis/ray/v1"
	"github.com/ray-project/kuberay/ray-operator/controllers/ray/common"
	"github.com/ray-project/kuberay/ray-operator/controllers/ray/utils"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

const headPort = "6379"

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	text, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	var cluster rayv1.RayCluster
	if err := yaml.UnmarshalStrict(text, &cluster); err != nil {
		return err
	}
	if err := utils.ValidateRayClusterMetadata(cluster.ObjectMeta); err != nil {
		return err
	}
	if err := utils.ValidateRayClusterSpec(&cluster.Spec, cluster.Annotations); err != nil {
		return err
	}
	ctx, spec := context.Background(), cluster.Spec
	scaled := utils.IsAutoscalingEnabled(&spec)
	fqdn := utils.GenerateFQDNServiceName(ctx, cluster, cluster.Namespace)
	head := common.DefaultHeadPodTemplate(ctx, cluster, spec.HeadGroupSpec, cluster.Name+"-head", headPort)
	if err := told(common.BuildPod(ctx, head, rayv1.HeadNode, spec.HeadGroupSpec.RayStartParams, headPort, scaled, utils.RayClusterCRD, fqdn, nil, spec.RayVersion)); err != nil {
		return err
	}
	for _, group := range spec.WorkerGroupSpecs {
		worker := common.DefaultWorkerPodTemplate(ctx, cluster, group, cluster.Name+"-"+group.GroupName, fqdn, headPort, "", 0, 0)
		if err := told(common.BuildPod(ctx, worker, rayv1.WorkerNode, group.RayStartParams, headPort, scaled, utils.RayClusterCRD, fqdn, nil, spec.RayVersion)); err != nil {
			return err
		}
	}
	return nil
}

func told(pod corev1.Pod) error {
	text, err := yaml.Marshal(pod)
	if err != nil {
		return err
	}
	fmt.Printf("---\n%s", text)
	return nil
}
