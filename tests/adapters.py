"""A low-rank addition to a linear layer with the attributes that PEFT's layers have."""

import torch


class Lora(torch.nn.Module):
    """Adapters of a layer by name; the sum of the active ones is added to what it gives."""

    def __init__(self, base, name="style", scale=1.0):
        super().__init__()
        self.base_layer = base
        generator = torch.Generator().manual_seed(0)
        inner, outer = base.in_features, base.out_features
        self.lora_A = torch.nn.ModuleDict({name: torch.nn.Linear(inner, 2, bias=False)})
        self.lora_B = torch.nn.ModuleDict({name: torch.nn.Linear(2, outer, bias=False)})
        for each in (self.lora_A[name], self.lora_B[name]):
            torch.nn.init.normal_(each.weight, generator=generator)
        self.scaling = {name: scale}
        self.active_adapters = [name]
        self.merged_adapters = []
        self.disable_adapters = False

    def forward(self, x, *arguments, **named):
        result = self.base_layer(x)
        if not self.disable_adapters and not self.merged_adapters:
            for name in self.active_adapters:
                result = result + self.scaling[name] * self.lora_B[name](self.lora_A[name](x))
        return result
