"""Entry point under the published name: ``python main.py --cluster-config ... --dataset ...``."""

from inference_serving.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
