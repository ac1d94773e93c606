#!/usr/bin/env bash
# Build if needed, then run every example on committed data; results go to output/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
./compile.sh

simulate() {
  local title=$1 config=$2 dataset=$3 name=$4
  shift 4
  printf '\n### %s\n' "$title"
  .venv/bin/python main.py --cluster-config "cluster_config/$config.json" --dataset "dataset/$dataset.jsonl" \
    --output "output/$name.csv" --summary-json "output/$name.json" "$@"
}

simulate "Ten requests on one instance" single_node_single_instance example_trace example_run
simulate "100 ShareGPT-like requests on one instance" single_node_single_instance \
  sharegpt_req100_rate10_llama example_single_run --fp 16 --block-size 16 --num-req 100 --log-interval 5
simulate "The same on two instances" single_node_multi_instance \
  sharegpt_req100_rate10_llama example_multi_run --log-interval 5
simulate "Two nodes, four instances, each request to the least loaded" dual_node_multi_instance \
  sharegpt_req100_rate10_llama example_dual_node_run --request-routing-policy LOAD --log-interval 5
simulate "Prefill/decode disaggregation" single_node_pd_instance \
  sharegpt_req100_rate10_llama example_pd_run --log-interval 5
simulate "Prefill on two NPUs, decode on one" single_node_pd_unequal_H100_8B \
  sharegpt_req100_rate10_llama example_pd_unequal_run --log-interval 5
simulate "Llama-3.1-70B, tensor parallel over four H100" single_node_single_instance_H100 \
  sharegpt_req100_rate10_llama example_tp4_run --log-interval 5

simulate "Prompts that share a prefix, computed once" single_node_single_instance \
  research_hol_blocking/same_prefix example_prefix_run --enable-prefix-caching --log-interval 5
simulate "Conversations, NPU memory for few of them: prefixes come back from host memory" single_node_single_instance \
  conversations example_prefix_cpu_run --enable-prefix-caching --prefix-storage CPU --num-gpu-blocks-override 300 --log-interval 5
simulate "Conversations on two instances that share one pool of prefixes" single_node_multi_instance \
  conversations example_prefix_shared_run --enable-prefix-caching --prefix-storage CPU --enable-prefix-sharing --log-interval 5
simulate "The same on two nodes, a pool each" dual_node_multi_instance \
  conversations example_prefix_shared_dual_run --enable-prefix-caching --prefix-storage CPU --enable-prefix-sharing --log-interval 5
simulate "Weights on four CXL devices" single_node_cxl_instance \
  sharegpt_req100_rate10_llama example_cxl_run --log-interval 20
simulate "Too little KV memory: preempted requests' KV waits in host memory" single_node_memory_instance \
  sharegpt_req100_rate10_llama example_memory_run --num-gpu-blocks-override 400 --log-interval 20
simulate "Weights loaded from the NPU's own memory in each iteration" single_node_single_instance \
  sharegpt_req100_rate10_llama example_offloading_run --enable-local-offloading --log-interval 20
simulate "Sessions of agents on two instances, each turn where its history is cached" single_node_multi_instance \
  agentic_sessions example_sessions_run --enable-prefix-caching --request-routing-policy PREFIX --log-interval 20
simulate "Power and energy of a node and its requests (series in output/example_power.tsv)" \
  single_node_power_instance sharegpt_req100_rate10_llama example_power_run --log-interval 5 \
  --power-series output/example_power.tsv
simulate "Decode attention in host memory that computes" single_node_pim_instance \
  fixed_in128_out512_req256_rate10 example_pim_run --num-req 256 --log-interval 20 --enable-attn-offloading
simulate "The same, NPU and memory each with half of every batch" single_node_pim_instance \
  fixed_in128_out512_req256_rate10 example_pim_sbi_run --num-req 256 --log-interval 20 --enable-attn-offloading \
  --enable-sub-batch-interleaving
simulate "Prefill and decode on two nodes, switches within and between, links with contention" \
  dual_node_pd_topology_H100_8B sharegpt_req100_rate10_llama example_topology_run --log-interval 5 \
  --network-backend analytical-aware
simulate "Mixture of experts on one instance" single_node_moe_single_instance \
  sharegpt_req100_rate10_llama example_moe_run --log-interval 5
simulate "The same on two instances, experts wanted by a power law" single_node_moe_multi_instance \
  sharegpt_req100_rate10_llama example_moe_multi_run --log-interval 5 --expert-routing-policy POWERLAW
simulate "Mixture of experts, prefill and decode apart" single_node_moe_pd_instance \
  sharegpt_req100_rate10_llama example_moe_pd_run --log-interval 5
simulate "Two data-parallel instances that share their experts" single_node_moe_dp_ep_instance \
  sharegpt_req100_rate10_llama example_moe_dp_run --log-interval 5
simulate "DeepSeek-V2-Lite on two NPUs: latent attention, shared experts, a dense first block" \
  single_node_deepseek_instance sharegpt_req100_rate10_llama example_deepseek_run --log-interval 5
summaries=(output/example_{run,single_run,multi_run,dual_node_run,pd_run,pd_unequal_run,tp4_run,prefix_run,sessions_run,prefix_cpu_run,prefix_shared_run,prefix_shared_dual_run,cxl_run,memory_run,offloading_run,power_run,pim_run,pim_sbi_run,topology_run,moe_run,moe_multi_run,moe_pd_run,moe_dp_run,deepseek_run}.json)

if ./compile.sh --ns3 >/dev/null 2>&1; then
  simulate "The same, packet by packet in ns-3" dual_node_pd_topology_H100_8B sharegpt_req100_rate10_llama \
    example_ns3_run --num-req 10 --log-interval 5 --network-backend ns3 --ns3-mtu 16384
  summaries+=(output/example_ns3_run.json)
else
  printf '\n### The same, packet by packet: skipped, ns-3 is not installed (docs/ns3.md)\n'
fi

printf '\n### What each example gave (ms; full results in output/)\n'
.venv/bin/python -m inference_serving.compare "${summaries[@]}"
